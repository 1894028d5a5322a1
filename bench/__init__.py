"""Measuring: the bare engine, a running server, the peers side by side."""
