"""One small file for each foreign checkpoint layout."""
