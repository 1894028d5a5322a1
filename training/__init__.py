"""Pretraining, fine-tuning, evaluation. Nothing imports it but the command line."""
