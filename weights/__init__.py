"""Checkpoints: fetch, read foreign formats, convert, verify, save, load."""
