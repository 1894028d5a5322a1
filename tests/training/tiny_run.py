"""A corpus of three short texts, and a run small enough to be done in a second."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.config import PretrainConfig

Configure = Callable[..., PretrainConfig]

_NOUNS = ("cat", "dog", "ship", "captain", "garden", "letter", "queen", "river")
_VERBS = ("sees", "follows", "forgets", "remembers", "paints", "crosses")


def _sentences(seed: int, count: int) -> str:
    draw = random.Random(seed)
    return "".join(
        f"The {draw.choice(_NOUNS)} {draw.choice(_VERBS)} the {draw.choice(_NOUNS)}.\n"
        for _ in range(count)
    )


def write_corpus(path: Path) -> Path:
    path.mkdir()
    (path / "7_tale.txt").write_text(_sentences(1, 300))
    (path / "12_novel.txt").write_text(_sentences(2, 200))
    (path / "36_held_out.txt").write_text(
        _sentences(3, 40) + "Caf\u00e9, na\u00efve \u2014 \u03b1.\n"
    )
    return path


def tiny_config(folder: Path, **changes: Any) -> PretrainConfig:
    values: dict[str, Any] = {
        "data": folder / "corpus",
        "out": folder / "run",
        "num_layers": 1,
        "num_channels": 32,
        "num_heads": 2,
        "vocab_size": 300,
        "window_len": 32,
        "batch_tokens": 128,
        "num_steps": 12,
        "learning_rate": 3e-3,
        "warmup_steps": 2,
        "held_out": ("36",),
        "held_out_steps": 10,
    }
    return PretrainConfig(**(values | changes))


INTERRUPTED_OPTIONS: dict[str, Any] = {
    "checkpoint_steps": 3,
    "dropout": 0.1,
    "optimizer": "muon",
    "short_window_len": 8,
    "short_share": 0.5,
    "accumulation": 2,
}
