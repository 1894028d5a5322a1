"""Labels: classes from the training examples, scores in a range, numbers of choices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.finetune_config import FinetuneConfig
from training.task_data import Example
from training.task_labels import Labels


def config(**values: Any) -> FinetuneConfig:
    given: dict[str, Any] = {"form": "classification", "dev_share": 0.1}
    paths = {name: Path(name) for name in ("data", "out", "start_from")}
    return FinetuneConfig(**{**given, **paths, **values})


def rows(*labels: str) -> list[Example]:
    return [Example(f"f:{line}", ("text",), label) for line, label in enumerate(labels, 1)]


def test_classes_are_sorted_and_can_be_renamed() -> None:
    made = config(label_names=("0=bad", "2=so=so"))
    labels = Labels.of(made, rows("2", "0", "1", "0"))
    assert labels.written == ("0", "1", "2")
    problems: list[str] = []
    assert labels.names(made, problems) == ("bad", "1", "so=so")
    assert labels.targets(rows("2", "3", "0"), problems) == [2, 0]
    assert problems == ["f:2: label must be one of 0, 1, 2, got '3'"]


def test_scores_become_shares_of_the_range() -> None:
    labels = Labels.of(config(score_range=(1.0, 5.0)), rows("9"))
    problems: list[str] = []
    assert labels.targets(rows("1", "5.0", " 2 ", "0.9", "inf", "x"), problems) == [0, 1, 0.25]
    assert problems == [
        "f:4: label must be from 1 to 5, got 0.9",
        "f:5: label must be from 1 to 5, got inf",
        "f:6: label must be a number, got 'x'",
    ]


@pytest.mark.parametrize(
    ("label", "is_good"), [("0", True), ("2", True), ("3", False), ("01", False)]
)
def test_choices_count_from_zero(label: str, is_good: bool) -> None:
    choices = config(form="multiple_choice", text=("q", "a", "b", "c"))
    problems: list[str] = []
    found = Labels.of(choices, rows("0")).targets(rows(label), problems)
    assert bool(found) == is_good
    assert bool(problems) != is_good
