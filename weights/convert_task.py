"""Conversion of classifiers that others trained -> the directory of a task with its own trunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from model.config import ConfigError
from model.tasks import TaskConfig
from weights.directory import dest_problems, named_problems
from weights.formats.hf_classifier import ForeignClassifier, read_hf_classifier
from weights.stored import DTYPES, CheckpointError, file_sha256
from weights.task import Task, TrainedTask, open_task, save_task
from weights.task_description import HEAD_BIAS, HEAD_WEIGHT
from weights.vocabulary import fit_problems, read_tokenizer


def convert_classifier(
    source: Path,
    dest: Path,
    dtype: str | None = None,
    vocabulary: Path | None = None,
    origin: str | None = None,
) -> Task:
    """Convert transformers' classifier in ``source`` to a task in ``dest``, and open it.

    ``dest`` must not exist. ``dtype`` is float32, bfloat16 or float16; None keeps every tensor as
    it is stored. The vocabulary is that of the directory ``vocabulary``, or else of ``source``.
    ``origin`` is recorded instead of the path of ``source``. Raises CheckpointError listing every
    problem; then ``dest`` is not there.
    """
    if problems := dest_problems(dest):
        raise CheckpointError(problems)
    folder = vocabulary or source
    with named_problems(source):
        found = read_hf_classifier(source)
        tokenizer = read_tokenizer(folder, is_optional=vocabulary is None)
        if problems := fit_problems(tokenizer, found.decoder.config):
            raise CheckpointError(problems)
    files = ("config.json", *found.decoder.weight_files)
    record: dict[str, Any] = {
        "origin": origin or str(source),
        "format": "hf_gpt2_classifier",
        "sha256": {name: file_sha256(source / name) for name in files},
    }
    save_task(dest, _task(found, dest.name, dtype, folder), record)
    return open_task(dest, None)


def _task(found: ForeignClassifier, name: str, dtype: str | None, folder: Path) -> TrainedTask:
    decoder = found.decoder
    try:
        config = TaskConfig(
            form="classification",
            max_len=decoder.config.num_positions,
            labels=found.labels,
            pooling="last",
        )
    except ConfigError as error:
        raise CheckpointError(error.problems) from error

    def cast(tensor: torch.Tensor) -> torch.Tensor:
        return tensor if dtype is None else tensor.to(DTYPES[dtype])

    bias = torch.zeros(len(found.labels), dtype=found.score.dtype)
    return TrainedTask(
        name=name,
        config=config,
        train="full",
        tensors={HEAD_WEIGHT: cast(found.score), HEAD_BIAS: cast(bias)},
        trunk_config=decoder.config,
        trunk_tensors={key: cast(tensor) for key, tensor in decoder.tensors.items()},
        vocabulary=folder,
    )
