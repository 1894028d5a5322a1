"""Trouble made on purpose: is what was promised for it kept? docs/trouble.md."""
