"""Which reader a source is for. Every layout that ``convert`` takes is listed here."""

from __future__ import annotations

from pathlib import Path

from weights.formats.foreign import ForeignCheckpoint
from weights.formats.hf_gpt2 import read_hf_gpt2


def read_foreign(path: Path) -> ForeignCheckpoint:
    """Read a checkpoint of another layout. Raises CheckpointError listing every problem."""
    return read_hf_gpt2(path)
