"""RunDirectory: where a run keeps what it needs to go on, and what it hands over at the end.

run.json            what the run was told, and what it decided at the start
vocabulary/         the tokenizer
train.bin           the training text as ids
state.pt            parameters, optimiser and step, replaced whole at every interval
curve.csv, .png     the loss
checkpoint/         what `serve` takes, replaced at every interval
task/               of fine-tuning instead, at the end: what `serve --task` takes
report.json         the result
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.errors import TrainingError


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths of one run, and the rules for replacing what lies there."""

    path: Path

    @property
    def vocabulary(self) -> Path:
        """The tokenizer's files."""
        return self.path / "vocabulary"

    @property
    def tokens(self) -> Path:
        """The training text, encoded."""
        return self.path / "train.bin"

    @property
    def curve(self) -> Path:
        """The loss of every step."""
        return self.path / "curve.csv"

    @property
    def checkpoint(self) -> Path:
        """The decoder as it was at the last interval."""
        return self.path / "checkpoint"

    @property
    def task(self) -> Path:
        """The task that was fine-tuned."""
        return self.path / "task"

    def recorded(self) -> dict[str, Any] | None:
        """What run.json says, None where a run can begin. Raises TrainingError where none can."""
        file = self.path / "run.json"
        if file.exists():
            values: dict[str, Any] = json.loads(file.read_text())
            return values
        if self.path.exists() and not self.path.is_dir():
            raise TrainingError([f"{self.path} is not a directory"])
        if self.path.exists() and any(self.path.iterdir()):
            raise TrainingError([f"{self.path} is not empty and holds no run"])
        return None

    @contextmanager
    def begin(self) -> Iterator[RunDirectory]:
        """A directory under another name, renamed if all goes well: a run begins whole."""
        partial = self.path.with_name(f".{self.path.name}.partial")
        _remove(partial)
        partial.mkdir(parents=True)
        try:
            yield RunDirectory(partial)
            partial.rename(self.path)
        finally:
            _remove(partial)

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Replace ``name`` whole."""
        text = json.dumps(values, indent=2) + "\n"
        replace_file(self.path / name, lambda partial: partial.write_text(text))

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Replace the state whole: whenever the process dies, one whole state is there."""
        replace_file(self.path / "state.pt", lambda partial: torch.save(state, partial))

    def load_state(self) -> dict[str, Any] | None:
        """The last saved state, None before the first."""
        file = self.path / "state.pt"
        if not file.exists():
            return None
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        return state

    def replace_checkpoint(self, save: Callable[[Path], object]) -> None:
        """Let ``save`` write a new checkpoint beside the old one, and put it in its place."""
        _replace_directory(self.checkpoint, save)

    def replace_task(self, save: Callable[[Path], object]) -> None:
        """The same with the task."""
        _replace_directory(self.task, save)


def _replace_directory(path: Path, save: Callable[[Path], object]) -> None:
    fresh, old = (path.with_name(f"{path.name}.{state}") for state in ("new", "old"))
    for leftover in (fresh, old, *path.parent.glob(f".{fresh.name}.*")):
        _remove(leftover)
    save(fresh)
    if path.exists():
        path.rename(old)
    fresh.rename(path)
    _remove(old)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make the file under another name, and put it in its place once it is whole."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def differences(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Every field in which two runs differ, with both values."""
    return [
        f"{name} is {recorded.get(name)!r} there and {wanted.get(name)!r} here"
        for name in sorted(recorded.keys() | wanted.keys())
        if recorded.get(name) != wanted.get(name)
    ]
