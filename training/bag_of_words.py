"""The baseline beside fine-tuning: a linear model of which words are there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.tasks import Outcome, TaskConfig, outcome
from training.finetune_preparation import TaskSplit
from training.task_scores import metrics

_WORD = re.compile(r"\w+|[^\w\s]")
_NUM_STEPS = 150
_LEARNING_RATE = 0.05
_DECAYS = (1e-5, 1e-4, 1e-3, 1e-2)
"""Of the squared weights; the one that is best on dev is kept."""


class BagOfWords:
    """Logistic (or linear) regression on the words of the training examples.

    A feature is a word of one text, or a word that two texts of an input share. Each choice of a
    multiple choice is an input of its own with one score. Adam on all examples at once, from zero.
    """

    def __init__(self, config: TaskConfig, training: TaskSplit, decay: float) -> None:
        self._config = config
        self._numbers: dict[tuple[str, str], int] = {}
        for row in training.rows:
            for feature in (f for bag in _bags(row.texts) for f in bag):
                self._numbers.setdefault(feature, len(self._numbers))
        num_outputs = config.num_outputs
        self._weights = nn.EmbeddingBag(len(self._numbers), num_outputs, mode="sum")
        self._bias = nn.Parameter(torch.zeros(num_outputs))
        nn.init.zeros_(self._weights.weight)
        self._fit(training, decay)

    def _fit(self, training: TaskSplit, decay: float) -> None:
        groups: list[dict[str, Any]] = [
            {"params": self._weights.parameters(), "weight_decay": decay},
            {"params": [self._bias]},
        ]
        optimizer = torch.optim.Adam(groups, lr=_LEARNING_RATE)
        features = self._features(training)
        targets = torch.tensor([example.target for example in training.examples])
        for _ in range(_NUM_STEPS):
            optimizer.zero_grad()
            self._loss(self._outputs(*features), targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs (B, S, num_outputs) as those of a task head, see task_objective."""
        if self._config.is_regression:
            return F.mse_loss(outputs.flatten(), targets)
        return F.cross_entropy(outputs.flatten(1), targets.long())

    def answers(self, split: TaskSplit) -> list[Outcome]:
        """One for each example."""
        with torch.no_grad():
            rows = self._outputs(*self._features(split)).tolist()
        return [outcome(self._config, row) for row in rows]

    def _features(self, split: TaskSplit) -> tuple[Tensor, Tensor, int]:
        """Numbers of all features (N), where each bag begins (B S), and the bags of an input."""
        found: list[int] = []
        offsets = []
        num_bags = 1
        for row in split.rows:
            bags = [*_bags(row.texts)]
            num_bags = len(bags)
            for bag in bags:
                offsets.append(len(found))
                found += [self._numbers[feature] for feature in bag if feature in self._numbers]
        return torch.tensor(found, dtype=torch.int64), torch.tensor(offsets), num_bags

    def _outputs(self, features: Tensor, offsets: Tensor, num_bags: int) -> Tensor:
        outputs: Tensor = self._weights(features, offsets) + self._bias
        return outputs.unflatten(0, (-1, num_bags))  # type: ignore[no-untyped-call,no-any-return]


def bag_of_words(
    config: TaskConfig, training: TaskSplit, splits: Sequence[TaskSplit], metric: str
) -> list[Mapping[str, float]]:
    """The metrics on each of ``splits``, whose first is dev: the decay is chosen there."""
    best: list[Mapping[str, float]] = []
    for decay in _DECAYS:
        model = BagOfWords(config, training, decay)
        found = [metrics(config, model.answers(split), split.examples) for split in splits]
        if not best or found[0][metric] > best[0][metric]:
            best = found
    return best


def _bags(texts: tuple[str, ...]) -> Iterator[list[tuple[str, str]]]:
    """The features of one input, or of each of its choices, in alphabetical order."""
    first, *others = ({*_WORD.findall(text.lower())} for text in texts)
    if not others:
        yield [("text", word) for word in sorted(first)]
    for other in others:
        parts = (("first", first), ("second", other), ("both", first & other))
        yield [(part, word) for part, words in parts for word in sorted(words)]
