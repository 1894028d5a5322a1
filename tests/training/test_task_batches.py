"""Batches: every example once an epoch, alike in length, a function of seed and step."""

from __future__ import annotations

import random
from collections import Counter

import torch

from training.task_batches import TaskBatch, TaskBatches, TaskExample, in_order

DRAW = random.Random(3)
EXAMPLES = [TaskExample(((number,) * DRAW.randint(1, 40),), number) for number in range(500)]


def targets(batches: TaskBatches, epoch: int) -> list[list[float]]:
    steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
    return [batches.at(step).targets.tolist() for step in steps]


def test_an_epoch_has_every_example_once_in_an_order_of_its_own() -> None:
    batches = TaskBatches(EXAMPLES, 8, seed=1)
    assert batches.steps_per_epoch == 63
    epochs = [[t for batch in targets(batches, epoch) for t in batch] for epoch in (0, 1)]
    for epoch in epochs:
        assert Counter(epoch) == Counter(range(500))
    assert epochs[0] != epochs[1]


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    forth, back = (TaskBatches(EXAMPLES, 8, seed=1) for _ in range(2))
    steps = [0, 5, 70, 6]
    assert [forth.at(step).targets.tolist() for step in steps] == [
        back.at(step).targets.tolist() for step in reversed(steps)
    ][::-1]
    assert TaskBatches(EXAMPLES, 8, seed=2).at(0).targets.tolist() != forth.at(0).targets.tolist()


def test_examples_of_a_batch_are_alike_in_length() -> None:
    batches = TaskBatches(EXAMPLES, 8, seed=1)
    made = [batches.at(step) for step in range(batches.steps_per_epoch)]
    places = sum(batch.ids.numel() for batch in made)
    tokens = sum(int(batch.lengths.sum()) for batch in made)
    assert places < 1.1 * tokens
    longest = [batch.ids.shape[-1] for batch in made]
    assert longest[:50] != sorted(longest[:50])  # of one bucket, and yet not from short to long


def test_padding_and_lengths() -> None:
    examples = [TaskExample(((5, 6), (7,)), 1.0), TaskExample(((8, 9, 4), (3, 2)), 0.0)]
    batch = TaskBatch.of(examples)
    assert batch.ids.tolist() == [[[5, 6, 0], [7, 0, 0]], [[8, 9, 4], [3, 2, 0]]]
    assert batch.lengths.tolist() == [[2, 1], [3, 2]]
    assert batch.targets.tolist() == [1.0, 0.0]
    assert batch.targets.dtype == torch.float32


def test_in_order_goes_from_short_to_long() -> None:
    numbers = [number for batch in in_order(EXAMPLES, 7) for number in batch]
    lengths = [EXAMPLES[number].length for number in numbers]
    assert lengths == sorted(lengths)
    assert sorted(numbers) == [*range(500)]
