"""Conversion: any checkpoint that can be opened -> our directory, verified throughout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from model.tokenizer import Tokenizer, TokenizerError, VocabularyMissing
from weights.checkpoint import Checkpoint, open_source, save_checkpoint
from weights.stored import DTYPES, CheckpointError


def convert(
    source: Path,
    dest: Path,
    dtype: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Checkpoint:
    """Convert ``source`` to our format in ``dest``, which must not exist, and open the result.

    ``dtype`` is float32, bfloat16 or float16; None keeps every tensor as it is stored.
    ``progress`` is told (done_bytes, total_bytes). A vocabulary is copied, if it can be served.
    Raises CheckpointError listing every problem; then ``dest`` is not there.
    """
    problems = _request_problems(dest, dtype)
    checkpoint: Checkpoint | None = None
    try:
        checkpoint = open_source(source)
    except CheckpointError as error:
        problems += error.problems
    problems += _vocabulary_problems(source, checkpoint)
    if problems or checkpoint is None:
        raise CheckpointError(problems)
    tensors = _cast(checkpoint.tensors, dtype)
    return save_checkpoint(dest, checkpoint.config, tensors, source, _origin(checkpoint), progress)


def _request_problems(dest: Path, dtype: str | None) -> list[str]:
    problems = []
    if dtype is not None and dtype not in DTYPES:
        problems.append(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if dest.exists() or dest.is_symlink():
        problems.append(f"{dest}: exists already")
    elif not dest.parent.is_dir():
        problems.append(f"{dest}: {dest.parent} is not a directory")
    return problems


def _vocabulary_problems(source: Path, checkpoint: Checkpoint | None) -> list[str]:
    """Why the vocabulary of ``source`` cannot be served; none for no vocabulary at all."""
    try:
        vocab_size = Tokenizer.from_directory(source).vocab_size
    except VocabularyMissing:
        return []
    except TokenizerError as error:
        return error.problems
    if checkpoint is None or vocab_size <= checkpoint.config.vocab_size:
        return []
    rows = checkpoint.config.vocab_size
    return [f"the vocabulary has ids up to {vocab_size - 1}, the embedding only {rows} rows"]


def _cast(tensors: Mapping[str, torch.Tensor], dtype: str | None) -> Mapping[str, torch.Tensor]:
    if dtype is None:
        return tensors
    return {name: tensor.to(DTYPES[dtype]) for name, tensor in tensors.items()}


def _origin(checkpoint: Checkpoint) -> dict[str, object]:
    """Where the weights first came from: a checkpoint of ours passes on what it knows."""
    return {name: checkpoint.source[name] for name in _PASSED_ON if name in checkpoint.source}


_PASSED_ON = ("origin", "format", "sha256", "licence")
