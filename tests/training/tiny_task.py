"""Tasks of every form that a decoder of one layer learns in a second or two."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training.finetune_config import FinetuneConfig

Fine = Callable[..., FinetuneConfig]

_GOOD = ("good", "fine", "great")
_BAD = ("bad", "poor", "weak")
_THINGS = ("cat", "dog", "ship", "queen")


def _reviews(draw: random.Random, count: int) -> list[tuple[str, str]]:
    rows = []
    for _ in range(count):
        label = draw.choice(("0", "1"))
        word = draw.choice(_GOOD if label == "1" else _BAD)
        length = draw.randint(0, 3)
        rows.append((f"a {draw.choice(_THINGS)}{' very' * length} {word}", label))
    return rows


def write_tsv(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path


def write_tasks(folder: Path) -> Path:
    """reviews.tsv without a header, pairs.tsv, scores.csv and choices.jsonl; and dev of each."""
    folder.mkdir()
    draw = random.Random(5)
    for suffix, count in (("", 96), ("-dev", 32)):
        reviews = _reviews(draw, count)
        write_tsv(folder / f"reviews{suffix}.tsv", reviews)
        pairs = [(text, draw.choice(_THINGS), label) for text, label in reviews]
        header = ("premise", "hypothesis", "label")
        write_tsv(folder / f"pairs{suffix}.tsv", [header, *pairs])
        scores = [f'"{text}","it is",{1 + 4 * int(label)}' for text, label in reviews]
        (folder / f"scores{suffix}.csv").write_text("a,b,score\n" + "\n".join(scores))
        choices = [
            {"q": "which", "x": draw.choice(_BAD), "y": draw.choice(_GOOD), "label": 1}
            if draw.random() < 0.5
            else {"q": "which", "x": draw.choice(_GOOD), "y": draw.choice(_BAD), "label": 0}
            for _ in range(count)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in choices)
        (folder / f"choices{suffix}.jsonl").write_text(lines)
    return folder


FORMS: dict[str, dict[str, Any]] = {
    "classification": {"data": "reviews.tsv", "columns": ("text", "label")},
    "entailment": {"data": "pairs.tsv"},
    "similarity": {
        "data": "scores.csv",
        "text": ("a", "b"),
        "label": "score",
        "score_range": (1.0, 5.0),
    },
    "multiple_choice": {"data": "choices.jsonl", "text": ("q", "x", "y")},
}


def tiny_task(folder: Path, trunk: Path, form: str, **changes: Any) -> FinetuneConfig:
    """Of a folder with write_tasks' files in ``tasks``."""
    values: dict[str, Any] = {
        "form": form,
        "out": folder / "run",
        "start_from": trunk,
        "learning_rate": 3e-3,
        "batch_size": 4,
        "num_epochs": 4,
        "dropout": 0.0,
        "dtype": "float32",
        "max_len": 24,
        **FORMS[form],
    }
    data = folder / "tasks" / values["data"]
    values["data"] = data
    values["dev"] = data.with_stem(f"{data.stem}-dev")
    return FinetuneConfig(**(values | changes))
