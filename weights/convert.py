"""Conversion: any checkpoint that can be opened -> our directory, verified throughout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from model.quantised import QuantisedMatrix
from model.quantising import METHODS, method_problems
from model.tokenizer import VOCABULARY_FILES, Tokenizer
from weights.checkpoint import Checkpoint, open_source, quantised_for_good, save_checkpoint
from weights.directory import dest_problems
from weights.formats.foreign import Hints
from weights.quantise import QUALITY, quantise
from weights.stored import DTYPES, CheckpointError, file_sha256
from weights.vocabulary import END_OF_TEXT, fit_problems, read_tokenizer, vocabulary_files


def convert(
    source: Path,
    dest: Path,
    dtype: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    vocabulary: Path | None = None,
    num_heads: int | None = None,
    origin: str | None = None,
    quantization: str | None = None,
) -> Checkpoint:
    """Convert ``source`` to our format in ``dest``, which must not exist, and open the result.

    ``dtype`` is float32, bfloat16 or float16; None keeps every tensor as it is stored.
    ``progress`` is told (done_bytes, total_bytes). The vocabulary of the directory
    ``vocabulary``, or else of a ``source`` that is a directory, is copied, if it can be served.
    ``num_heads`` is for the layouts that do not say it.
    ``origin`` is recorded instead of the path of ``source``.
    ``quantization`` is int8 or int4, and what it costs is then among what is recorded; a source
    that is quantised already can only be copied.
    Raises CheckpointError listing every problem; then ``dest`` is not there.
    """
    problems = _request_problems(dest, dtype, quantization)
    # Beside a file, anything can lie: its vocabulary has to be named.
    folder = vocabulary or (source if source.is_dir() else None)
    checkpoint, found = _open(source, folder, num_heads, is_optional=vocabulary is None)
    problems += found
    if checkpoint is not None:
        problems += _quantization_problems(checkpoint, dtype, quantization)
    if problems or checkpoint is None:
        raise CheckpointError(problems)
    content = _content(checkpoint, dtype, quantization)
    record = {**_origin(checkpoint, vocabulary), **content.record}
    record |= {} if origin is None else {"origin": origin}
    return save_checkpoint(
        dest,
        checkpoint.config,
        content.tensors,
        folder,
        record,
        progress,
        content.matrices,
        content.quantization,
    )


class _Content(NamedTuple):
    """What will be written, and what source.json says of it."""

    tensors: Mapping[str, torch.Tensor]
    matrices: Mapping[str, QuantisedMatrix]
    quantization: str | None
    record: Mapping[str, Any]


def _content(checkpoint: Checkpoint, dtype: str | None, quantization: str | None) -> _Content:
    if quantization is None or checkpoint.quantization:
        known = checkpoint.source.get(QUALITY)
        record = {QUALITY: known} if checkpoint.quantization and known else {}
        tensors = _cast(checkpoint.tensors, dtype)
        return _Content(tensors, checkpoint.matrices, checkpoint.quantization, record)
    plain, matrices, quality = quantise(checkpoint.config, checkpoint.tensors, quantization)
    return _Content(plain, matrices, quantization, {QUALITY: quality.to_dict()})


def _request_problems(dest: Path, dtype: str | None, quantization: str | None) -> list[str]:
    problems = []
    if dtype is not None and dtype not in DTYPES:
        problems.append(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if dtype is not None and quantization is not None:
        problems.append("either a dtype or a quantisation can be asked for, not both")
    if quantization not in (None, *METHODS):
        problems.append(f"quantisation must be one of {', '.join(METHODS)}, got {quantization!r}")
    return problems + dest_problems(dest)


def _quantization_problems(
    checkpoint: Checkpoint, dtype: str | None, quantization: str | None
) -> list[str]:
    if checkpoint.quantization is None:
        is_known = quantization in METHODS
        return method_problems(checkpoint.config, quantization or "") if is_known else []
    if dtype is None and quantization in (None, checkpoint.quantization):
        return []
    return [f"{checkpoint.path}: {quantised_for_good(checkpoint.quantization)}"]


def _open(
    source: Path, folder: Path | None, num_heads: int | None, *, is_optional: bool
) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint, read with what the vocabulary in ``folder`` says, and every problem."""
    problems: list[str] = []
    tokenizer: Tokenizer | None = None
    try:
        if folder is not None:
            tokenizer = read_tokenizer(folder, is_optional=is_optional)
    except CheckpointError as error:
        problems += error.problems
    try:
        checkpoint = open_source(source, _hints(tokenizer, num_heads))
    except CheckpointError as error:
        return None, problems + error.problems
    problems += fit_problems(tokenizer, checkpoint.config)
    return checkpoint, problems + _heads_problems(checkpoint, num_heads)


def _hints(tokenizer: Tokenizer | None, num_heads: int | None) -> Hints:
    if tokenizer is None:
        return Hints(num_heads)
    return Hints(num_heads, tokenizer.vocab_size, tokenizer.special_tokens.get(END_OF_TEXT))


def _heads_problems(checkpoint: Checkpoint, num_heads: int | None) -> list[str]:
    stored = checkpoint.config.num_heads
    if num_heads is None or num_heads == stored:
        return []
    return [f"num_heads is {num_heads}, but {checkpoint.path} says {stored}"]


def _cast(tensors: Mapping[str, torch.Tensor], dtype: str | None) -> Mapping[str, torch.Tensor]:
    if dtype is None:
        return tensors
    return {name: tensor.to(DTYPES[dtype]) for name, tensor in tensors.items()}


def _origin(checkpoint: Checkpoint, vocabulary: Path | None) -> dict[str, object]:
    """Where the weights first came from: a checkpoint of ours passes on what it knows."""
    origin: dict[str, Any] = {
        name: checkpoint.source[name] for name in _PASSED_ON if name in checkpoint.source
    }
    if vocabulary is not None:
        known = origin.get("sha256")
        hashes = (
            {}
            if not isinstance(known, dict)
            else {name: digest for name, digest in known.items() if name not in VOCABULARY_FILES}
        )
        hashes |= {file.name: file_sha256(file) for file in vocabulary_files(vocabulary)}
        origin |= {"vocabulary": str(vocabulary), "sha256": hashes}
    return origin


_PASSED_ON = ("origin", "format", "sha256", "changes", "vocabulary", "licence")
