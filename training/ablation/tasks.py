"""The four tasks of the ablation: where their examples are, and what others reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class AblationTask:
    """``data`` and ``test`` are paths inside the folder of the tasks. A part of data is dev."""

    data: str
    test: str
    metric: str
    published: float | None
    """GPT's, of 117 M parameters, on a test set without public labels (Radford et al. 2018)."""
    options: Mapping[str, Any]
    """Of finetune."""


TASKS: Mapping[str, AblationTask] = {
    "SST-2": AblationTask(
        "sst2/train.tsv",
        "sst2/test.tsv",
        "accuracy",
        91.3,
        {"form": "classification", "columns": ("text", "label"), "num_examples": 1_000},
    ),
    "RTE": AblationTask(
        "rte/train.tsv",
        "rte/dev.tsv",
        "accuracy",
        56.0,
        {
            "form": "entailment",
            "text": ("sentence1", "sentence2"),
            "num_examples": 600,
            "max_len": 128,
        },
    ),
    "STS-B": AblationTask(
        "stsb/stsb-en-train.csv",
        "stsb/stsb-en-test.csv",
        "pearson",
        82.0,
        {
            "form": "similarity",
            "columns": ("text_a", "text_b", "label"),
            "score_range": (0.0, 5.0),
            "num_examples": 1_000,
        },
    ),
    "COPA": AblationTask(
        "copa/train.jsonl",
        "copa/val.jsonl",
        "accuracy",
        None,
        {
            "form": "multiple_choice",
            "text": ("premise+question", "choice1", "choice2"),
            "num_epochs": 4,
        },
    ),
}

COMMON: Mapping[str, Any] = {
    "dev_share": 0.1,
    "learning_rate": 5e-4,
    "batch_size": 8,
    "num_epochs": 2,
    "warmup_share": 0.1,
    "num_threads": 1,
    "checkpoint_s": 3_600.0,
}
"""Options of every run, unless the task has its own. Batch and learning rate were changed after a
look at a few runs of SST-2 (docs/fine-tuning.md); nothing else was tuned."""

OBJECTIVES: Mapping[str, float] = {"L2": 0.0, "L3": 0.5}
"""Lambda of each (GPT paper, equation 5)."""
