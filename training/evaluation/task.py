"""The metrics of a fine-tuned task on labelled examples, read as those it was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.tasks import TaskConfig
from model.tokenizer import Tokenizer
from training.errors import TrainingError
from training.evaluation.report import table
from training.task_batches import TaskExample, encode
from training.task_data import Layout, read_examples
from training.task_labels import Labels
from training.task_network import TaskNetwork
from training.task_scores import answers, metrics
from weights.checkpoint import Checkpoint, open_plain_checkpoint
from weights.stored import CheckpointError
from weights.task import Task, open_task


@dataclass(frozen=True, slots=True)
class TaskReport:
    """Metrics by file; in float32, answered as they are served."""

    task: str
    weights_hash: str
    num_examples: Mapping[str, int]
    metrics: Mapping[str, Mapping[str, float]]

    def lines(self) -> list[str]:
        """For people."""
        rows = [
            (on, str(self.num_examples[on]), name, f"{value:.4f}")
            for on, found in self.metrics.items()
            for name, value in found.items()
        ]
        return [f"{self.task}: weights {self.weights_hash}, float32", "", *table([_HEADS, *rows])]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "task": self.task,
            "weights_hash": self.weights_hash,
            "results": [
                {"on": on, "num_examples": self.num_examples[on], "metrics": dict(found)}
                for on, found in self.metrics.items()
            ],
        }


_CONVERTED: Mapping[str, Any] = {
    "text": ("text",),
    "label": "label",
    "columns": (),
    "label_names": (),
}
"""How the examples of a classifier that was not made here are read: its labels are its own."""

_HEADS = ("on", "examples", "measure", "measured")


def evaluate_task(path: Path, trunk_path: Path, files: Sequence[str]) -> TaskReport:
    """Let the task in ``path`` answer each of ``files``: .tsv, .csv or .jsonl.

    ``trunk_path`` has the decoder that it was trained on, where it did not bring its own. Raises
    TrainingError naming everything that is wrong, every bad row by file and line.
    """
    task, trunk = _opened(path, trunk_path)
    tokenizer = Tokenizer.from_directory(trunk.path)
    config = task.description.config
    examples = _read(task, files, tokenizer)
    network = _network(task, trunk)
    found = {
        on: dict(metrics(config, answers(network, own, torch.float32), own))
        for on, own in examples.items()
    }
    counts = {on: len(own) for on, own in examples.items()}
    return TaskReport(task.description.name, task.weights_hash, counts, found)


def _opened(path: Path, trunk_path: Path) -> tuple[Task, Checkpoint]:
    try:
        if (path / "trunk").is_dir():
            task = open_task(path, None)
            return task, task.own_trunk or open_plain_checkpoint(trunk_path)
        trunk = open_plain_checkpoint(trunk_path)
        return open_task(path, trunk), trunk
    except CheckpointError as error:
        raise TrainingError(error.problems) from error


def _read(task: Task, files: Sequence[str], tokenizer: Tokenizer) -> dict[str, list[TaskExample]]:
    run = task.source.get("run", _CONVERTED)
    layout = Layout(
        tuple(tuple(part.split("+")) for part in run["text"]), run["label"], tuple(run["columns"])
    )
    config, labels = task.description.config, _labels(task.description.config, run)
    first_special_id = task.description.trunk_config.vocab_size
    problems: list[str] = []
    found = {}
    for file in files:
        rows = read_examples(Path(file), layout, problems).rows
        targets = labels.targets(rows, problems)
        if not problems:
            found[file] = encode(rows, targets, config, tokenizer, first_special_id)
    if problems:
        raise TrainingError(problems)
    return found


def _labels(config: TaskConfig, run: Mapping[str, Any]) -> Labels:
    """The classes as the files write them, in the order that the head has them."""
    if config.score_range is not None:
        return Labels(score_range=config.score_range)
    if config.form == "multiple_choice":
        return Labels(num_choices=len(run["text"]) - 1)
    written = {name: label for label, name in _pairs(run["label_names"])}
    return Labels(tuple(written.get(name, name) for name in config.labels))


def _pairs(label_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for pair in label_names:
        label, _, name = pair.partition("=")
        yield label, name


def _network(task: Task, trunk: Checkpoint) -> TaskNetwork:
    description = task.description
    network = TaskNetwork(trunk.config, description.config, description.lora, dropout=0.0, seed=0)
    network.load_task(task, trunk)
    return network.eval()
