"""How well a network does a task: its answers, made as they are served, and the metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from model.tasks import Outcome, TaskConfig, outcome
from training.metrics import class_metrics, score_metrics
from training.task_batches import TaskBatch, TaskExample, in_order
from training.task_network import TaskNetwork, last_hidden

_BATCH_SIZE = 64


@torch.no_grad()
def answers(
    network: TaskNetwork,
    examples: Sequence[TaskExample],
    dtype: torch.dtype,
) -> list[Outcome]:
    """One for each example. Dropout is off meanwhile."""
    was_training = network.training
    network.eval()
    device = network.head_weight.device
    found: dict[int, Outcome] = {}
    for numbers in in_order(examples, _BATCH_SIZE):
        batch = TaskBatch.of([examples[number] for number in numbers]).to(device)
        hidden = last_hidden(network.hidden(batch, dtype), batch)  # (B, S, C)
        orders = [*range(hidden.shape[1])] * hidden.shape[0]
        logits = network.head().logits(hidden.flatten(0, 1), orders)  # (B S, num_outputs)
        rows = logits.view(*hidden.shape[:2], -1).tolist()
        found |= {n: outcome(network.config, row) for n, row in zip(numbers, rows, strict=True)}
    network.train(was_training)
    return [found[number] for number in range(len(examples))]


def metrics(
    config: TaskConfig, found: Sequence[Outcome], examples: Sequence[TaskExample]
) -> Mapping[str, float]:
    """Every metric that the task has, by name."""
    if config.is_regression:
        return score_metrics([o.score for o in found], [example.target for example in examples])
    classes = [class_number(config, answer) for answer in found]
    return class_metrics(classes, [int(example.target) for example in examples])


def class_number(config: TaskConfig, answer: Outcome) -> int:
    """The number of the class or choice that was answered."""
    label = str(answer.label)
    return config.labels.index(label) if config.labels else int(label)
