"""The public task files are read as they are, by the options that docs/fine-tuning.md gives."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from training.task_data import Examples, Layout, read_examples

SST2 = Layout((("text",),), "label", ("text", "label"))
RTE = Layout((("sentence1",), ("sentence2",)), "label")
STSB = Layout((("a",), ("b",)), "label", ("a", "b", "label"))
COPA = Layout((("premise", "question"), ("choice1",), ("choice2",)), "label")


def read(path: Path, layout: Layout) -> Examples:
    problems: list[str] = []
    found = read_examples(path, layout, problems)
    assert problems == []
    return found


@pytest.mark.parametrize(
    ("name", "layout", "num_rows"),
    [
        ("sst2/train.tsv", SST2, 6_920),
        ("sst2/dev.tsv", SST2, 872),
        ("sst2/test.tsv", SST2, 1_821),
        ("rte/train.tsv", RTE, 2_490),
        ("rte/dev.tsv", RTE, 277),
        ("stsb/stsb-en-train.csv", STSB, 5_749),
        ("stsb/stsb-en-dev.csv", STSB, 1_500),
        ("copa/train.jsonl", COPA, 368),
        ("copa/val.jsonl", COPA, 100),
    ],
)
def test_every_row_is_read(shared_data: Path, name: str, layout: Layout, num_rows: int) -> None:
    rows = read(shared_data / "tasks" / name, layout).rows
    assert len(rows) == num_rows
    assert all(len(row.texts) == len(layout.text) for row in rows)


def test_what_stands_in_them(shared_data: Path) -> None:
    tasks = shared_data / "tasks"
    sst2 = read(tasks / "sst2/dev.tsv", SST2).rows
    assert (sst2[0].texts, sst2[0].label) == (("one long string of cliches",), "0")
    assert Counter(row.label for row in sst2) == {"1": 444, "0": 428}
    rte = read(tasks / "rte/dev.tsv", RTE).rows
    assert {row.label for row in rte} == {"entailment", "not_entailment"}
    scores = [float(row.label) for row in read(tasks / "stsb/stsb-en-dev.csv", STSB).rows]
    assert (min(scores), max(scores)) == (0.0, 5.0)
    copa = read(tasks / "copa/val.jsonl", COPA).rows
    assert copa[0].texts == (
        "The man turned on the faucet. effect",
        "The toilet filled with water.",
        "Water flowed from the spout.",
    )
    assert copa[0].label == "1"


def test_a_test_file_without_labels_is_told_row_by_row(shared_data: Path) -> None:
    problems: list[str] = []
    path = shared_data / "tasks" / "copa" / "test.jsonl"
    assert read_examples(path, COPA, problems).rows == ()
    assert len(problems) == 500
    assert problems[0] == f"{path}:1: 'label' is missing"
