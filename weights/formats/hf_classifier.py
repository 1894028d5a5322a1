"""Classifiers as transformers' ``GPT2ForSequenceClassification`` writes them.

A decoder, and ``score.weight`` (num_labels, C) without a bias that reads the final vector of the
last token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from weights.formats.foreign import ForeignCheckpoint
from weights.formats.hf_files import open_weights
from weights.formats.hf_gpt2 import TaskHead, read_hf_gpt2
from weights.stored import SAFETENSORS_DTYPES, CheckpointError, read_object

_HEAD = TaskHead("GPT2ForSequenceClassification", "score.weight")
_CLASSES = (None, "single_label_classification")


@dataclass(frozen=True)
class ForeignClassifier:
    """``score`` (num_labels, C), and what its outputs are called."""

    decoder: ForeignCheckpoint
    labels: tuple[str, ...]
    score: Tensor


def is_hf_classifier(path: Path) -> bool:
    """Whether the directory ``path`` says that it is one."""
    try:
        return read_object(path / "config.json").get("architectures") == [_HEAD.architecture]
    except CheckpointError:
        return False


def read_hf_classifier(path: Path) -> ForeignClassifier:
    """Read the directory ``path``. Raises CheckpointError listing every problem."""
    labels, problems = _labels(read_object(path / "config.json"))
    try:
        decoder = read_hf_gpt2(path, with_pickles=True, task_head=_HEAD)
    except CheckpointError as error:
        raise CheckpointError(problems + error.problems) from error
    _, stored, _ = open_weights(path, with_pickles=True)
    wanted = (len(labels), decoder.config.num_channels)
    if _HEAD.tensor not in stored.owners:
        problems.append(f"tensor {_HEAD.tensor} is missing")
    elif stored.dtype(_HEAD.tensor) not in SAFETENSORS_DTYPES.values():
        problems.append(f"tensor {_HEAD.tensor} is {stored.dtype(_HEAD.tensor)}")
    elif labels and stored.shape(_HEAD.tensor) != wanted:
        found = stored.shape(_HEAD.tensor)
        problems.append(f"tensor {_HEAD.tensor} has shape {found}, expected {wanted}")
    if problems:
        raise CheckpointError(problems)
    return ForeignClassifier(decoder, labels, stored.load(_HEAD.tensor))


def _labels(values: Mapping[str, Any]) -> tuple[tuple[str, ...], list[str]]:
    """``id2label`` in the order of its ids (two of them where there is none), and its problems."""
    kind = values.get("problem_type")
    if kind not in _CLASSES:
        return (), [f"problem_type {kind!r} is not supported, only {_CLASSES[1]} is"]
    named = values.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        return (), ["id2label must be an object of ids and texts"]
    labels = tuple(named.get(str(number), "") for number in range(len(named)))
    if not all(labels):
        return (), [f"id2label must count from 0 to {len(named) - 1}, got {', '.join(named)[:80]}"]
    if len(labels) == 1:
        return (), ["a classifier with one label is a regression, which is not supported"]
    return labels, []
