"""Examples as token ids, and the batches of an epoch: alike in length, in an order by the seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.tasks import TaskConfig, sequences
from model.tokenizer import Tokenizer
from training.task_data import Example

_BUCKET_BATCHES = 50
"""Batches whose examples are sorted by length together: enough to leave little padding, few enough
to leave each batch a random one."""


@dataclass(frozen=True, slots=True)
class TaskExample:
    """One example. ``target`` is the number of its class or choice, or its score as 0 to 1."""

    sequences: tuple[tuple[int, ...], ...]
    target: float

    @property
    def length(self) -> int:
        """Of its longest sequence."""
        return max(map(len, self.sequences))


@dataclass(frozen=True, slots=True)
class TaskBatch:
    """B examples of S sequences, padded at the end to T positions, which nothing attends to.

    ``ids`` is (B, S, T) int64, ``lengths`` (B, S) int64, ``targets`` (B) float32.
    """

    ids: Tensor
    lengths: Tensor
    targets: Tensor

    @classmethod
    def of(cls, examples: Sequence[TaskExample]) -> TaskBatch:
        """All have the same number of sequences."""
        longest = max(example.length for example in examples)
        rows = [[[*ids, *[0] * (longest - len(ids))] for ids in e.sequences] for e in examples]
        lengths = [[len(ids) for ids in example.sequences] for example in examples]
        targets = [example.target for example in examples]
        return cls(torch.tensor(rows), torch.tensor(lengths), torch.tensor(targets))

    def to(self, device: torch.device) -> TaskBatch:
        """The same on another device."""
        return TaskBatch(*(x.to(device) for x in (self.ids, self.lengths, self.targets)))


def encode(
    examples: Sequence[Example],
    targets: Sequence[float],
    config: TaskConfig,
    tokenizer: Tokenizer,
    first_special_id: int,
) -> list[TaskExample]:
    """The texts as the sequences that the decoder reads."""
    return [
        TaskExample(
            sequences(
                config,
                tuple(tuple(tokenizer.encode(text)) for text in example.texts),
                first_special_id,
            ),
            target,
        )
        for example, target in zip(examples, targets, strict=True)
    ]


def in_order(examples: Sequence[TaskExample], batch_size: int) -> Iterator[list[int]]:
    """The numbers of all examples, in batches from the shortest to the longest."""
    order = sorted(range(len(examples)), key=lambda number: examples[number].length)
    return (order[start : start + batch_size] for start in range(0, len(order), batch_size))


class TaskBatches:
    """What each step is trained on: a function of the seed and the step, so no state to save."""

    def __init__(self, examples: Sequence[TaskExample], batch_size: int, seed: int) -> None:
        self.steps_per_epoch = -(-len(examples) // batch_size)
        self._examples = examples
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = -1
        self._batches: list[list[int]] = []

    def at(self, step: int) -> TaskBatch:
        """The batch of ``step``, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._batches, self._epoch = self._cut(epoch), epoch
        return TaskBatch.of([self._examples[number] for number in self._batches[place]])

    def _cut(self, epoch: int) -> list[list[int]]:
        """Every example once: a random order, sorted bucket by bucket, its batches shuffled."""
        generator = np.random.default_rng((self._seed, epoch))
        order = generator.permutation(len(self._examples)).tolist()
        bucket_len = _BUCKET_BATCHES * self._batch_size
        batches = []
        for start in range(0, len(order), bucket_len):
            bucket = sorted(order[start : start + bucket_len], key=self._length)
            batches += [
                bucket[i : i + self._batch_size] for i in range(0, len(bucket), self._batch_size)
            ]
        return [batches[place] for place in generator.permutation(len(batches))]

    def _length(self, number: int) -> int:
        return self._examples[number].length
