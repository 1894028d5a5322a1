"""Which reader a source is for. Every layout that ``convert`` takes is listed here."""

from __future__ import annotations

from pathlib import Path

from weights.formats.foreign import NO_HINTS, ForeignCheckpoint, Hints
from weights.formats.hf_gpt2 import read_hf_gpt2
from weights.formats.nano_gpt import find_nano_gpt, read_nano_gpt
from weights.formats.openai_gpt import is_openai_gpt, read_openai_gpt
from weights.formats.tf_gpt2 import is_tf_gpt2, read_tf_gpt2


def read_foreign(path: Path, hints: Hints = NO_HINTS) -> ForeignCheckpoint:
    """Read a checkpoint of another layout. Raises CheckpointError listing every problem."""
    if is_tf_gpt2(path):
        return read_tf_gpt2(path, hints)
    if is_openai_gpt(path):
        return read_openai_gpt(path, hints)
    file = find_nano_gpt(path)
    if file is not None:
        return read_nano_gpt(file, hints)
    return read_hf_gpt2(path, with_pickles=True)
