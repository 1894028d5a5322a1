"""What happens before the first step: files are read and checked, the run is recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.config import ConfigError
from model.tasks import TaskConfig
from model.tokenizer import Tokenizer, TokenizerError
from training.errors import TrainingError
from training.finetune_config import FinetuneConfig
from training.run_directory import RunDirectory, differences
from training.task_batches import TaskExample, encode
from training.task_data import Example, Examples, read_examples
from training.task_labels import Labels
from weights.checkpoint import Checkpoint, CheckpointError, open_plain_checkpoint

TEST_SHA256 = "test_sha256"


@dataclass(frozen=True, slots=True)
class TaskSplit:
    """One file, or a part of one: its rows, and the same as ids."""

    rows: tuple[Example, ...]
    examples: list[TaskExample]


@dataclass(frozen=True, slots=True)
class FinetunePreparation:
    """A run that can start, or go on."""

    directory: RunDirectory
    trunk: Checkpoint
    task: TaskConfig
    training: TaskSplit
    dev: TaskSplit
    test: TaskSplit | None
    sha256: dict[str, str]
    """The files, by what they are for."""


@dataclass(frozen=True, slots=True)
class _Data:
    training: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...] | None
    sha256: dict[str, str]


def prepare_finetuning(config: FinetuneConfig) -> FinetunePreparation:
    """Make ready what ``config`` asks for, or find it where an interrupted run left it.

    Raises TrainingError naming everything that is wrong with the files, every bad row by file and
    line, with the checkpoint or with the directory.
    """
    problems: list[str] = []
    trunk = _open_trunk(config, problems)
    data = _read(config, problems)
    labels = Labels.of(config, data.training)
    names = labels.names(config, problems)
    parts = (data.training, data.dev, data.test or ())
    targets = [labels.targets(rows, problems) for rows in parts]
    if problems or trunk is None:
        raise TrainingError(problems)
    task = _task(config, trunk, names)
    tokenizer = _tokenizer(trunk)
    splits = [
        TaskSplit(rows, encode(rows, numbers, task, tokenizer, trunk.config.vocab_size))
        for rows, numbers in zip(parts, targets, strict=True)
    ]
    directory = RunDirectory(config.out)
    # The test examples can come later: no weight depends on them.
    hashes = {name: value for name, value in data.sha256.items() if name != TEST_SHA256}
    _record(config, directory, {**hashes, "start_weights_hash": trunk.weights_hash})
    test = None if data.test is None else splits[2]
    return FinetunePreparation(directory, trunk, task, splits[0], splits[1], test, data.sha256)


def _open_trunk(config: FinetuneConfig, problems: list[str]) -> Checkpoint | None:
    try:
        trunk = open_plain_checkpoint(config.start_from)
    except CheckpointError as error:
        problems += error.problems
        return None
    limits = (
        ("max_len", trunk.config.num_positions, "positions"),
        ("transfer_layers", trunk.config.num_layers, "layers"),
    )
    for name, limit, of in limits:
        value = getattr(config, name)
        if value is not None and value > limit:
            problems.append(
                f"{name} must be at most {limit}, the {of} of {config.start_from}, got {value}"
            )
    return trunk


def _read(config: FinetuneConfig, problems: list[str]) -> _Data:
    def read(path: Path) -> Examples:
        return read_examples(path, config.layout, problems)

    training = read(config.data)
    rows = _sample(training.rows, config.num_examples, config.seed)
    sha256 = {"data_sha256": training.sha256}
    test = None
    if config.test is not None:
        found = read(config.test)
        test, sha256[TEST_SHA256] = found.rows, found.sha256
    if config.dev is None:
        share = config.dev_share or 0.0  # FinetuneConfig: exactly one of the two is given
        kept, held_out = _split(rows, share, config.seed)
        if not problems and not (kept and held_out):
            problems.append(f"dev_share {share} leaves no examples on one side")
        return _Data(kept, held_out, test, sha256)
    dev = read(config.dev)
    return _Data(rows, dev.rows, test, sha256 | {"dev_sha256": dev.sha256})


def _sample(rows: tuple[Example, ...], limit: int | None, seed: int) -> tuple[Example, ...]:
    """At most ``limit`` of the rows, in the file's order."""
    if limit is None or limit >= len(rows):
        return rows
    chosen = np.random.default_rng(seed).permutation(len(rows))[:limit]
    return tuple(rows[number] for number in sorted(chosen.tolist()))


def _split(
    rows: tuple[Example, ...], share: float, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """What is trained on, and what is held out of it: drawn by the seed, in the file's order."""
    num_held_out = round(share * len(rows))
    chosen = np.random.default_rng(seed).permutation(len(rows))[:num_held_out]
    held_out = frozenset(chosen.tolist())
    numbered = [*enumerate(rows)]
    return (
        tuple(row for number, row in numbered if number not in held_out),
        tuple(row for number, row in numbered if number in held_out),
    )


def _task(config: FinetuneConfig, trunk: Checkpoint, names: tuple[str, ...]) -> TaskConfig:
    try:
        return TaskConfig(
            form=config.form,
            max_len=config.max_len or trunk.config.num_positions,
            labels=names,
            is_regression=config.score_range is not None,
            score_range=config.score_range,
            join=config.chosen_join,
        )
    except ConfigError as error:
        raise TrainingError(error.problems) from error


def _tokenizer(trunk: Checkpoint) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_directory(trunk.path)
    except TokenizerError as error:
        raise TrainingError([f"vocabulary {trunk.path}: {p}" for p in error.problems]) from error
    if tokenizer.vocab_size > trunk.config.vocab_size:
        found = f"{tokenizer.vocab_size} entries, its embedding has {trunk.config.vocab_size}"
        raise TrainingError([f"the vocabulary of {trunk.path} has {found}"])
    return tokenizer


def _record(config: FinetuneConfig, directory: RunDirectory, hashes: dict[str, str]) -> None:
    identity = {**config.identity(), **hashes}
    recorded = directory.recorded()
    if recorded is None:
        with directory.begin() as partial:
            partial.write_json("run.json", {"identity": identity})
        return
    if not config.resume:
        raise TrainingError([f"{config.out} holds a run already, and resume is off"])
    if problems := differences(recorded["identity"], identity):
        raise TrainingError([f"{config.out} holds another run", *problems])
