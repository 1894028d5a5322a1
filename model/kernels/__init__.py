"""Fast paths, each beside its plain torch reference."""
