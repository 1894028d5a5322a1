"""A made-up byte-level vocabulary of any size, for random weights that a server can serve."""

from __future__ import annotations

import itertools
import json
from pathlib import Path


def byte_letters() -> list[str]:
    """A visible letter for each byte, by the rule of GPT-2: bytes that print are themselves."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = itertools.count(0x100)
    return [chr(byte) if byte in printing else chr(next(others)) for byte in range(256)]


def write_vocabulary(folder: Path, vocab_size: int) -> Path:
    """vocab.json and merges.txt: bytes, pairs of bytes, and the end of text. At least 257 ids."""
    letters = byte_letters()
    pairs = list(itertools.islice(itertools.product(letters, letters), vocab_size - 257))
    tokens = [*letters, *(a + b for a, b in pairs), "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(ids), "utf-8")
    merges = "\n".join(f"{a} {b}" for a, b in pairs)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", "utf-8")
    return folder
