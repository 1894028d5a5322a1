"""FinetuneReport: what fine-tuning hands over at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class FinetuneReport:
    """What came out. The metrics are of the task as it was saved and read again, in float32."""

    task: Path
    num_trained: int
    """Parameters that were trained."""
    num_steps: int
    best_epoch: int
    """Whose weights were kept, counted from 1."""
    dev: Mapping[str, float]
    test: Mapping[str, float] | None
    baseline: Mapping[str, Mapping[str, float]]
    """A bag of words on dev and test, where it was asked for."""
    elapsed_s: float

    def lines(self) -> list[str]:
        """For people."""
        rows = [("dev", self.dev)]
        if self.test is not None:
            rows.append(("test", self.test))
        rows += [(f"bag of words, {split}", found) for split, found in self.baseline.items()]
        return [
            f"{self.task}: {self.num_trained:,} parameters trained in {self.num_steps:,} steps, "
            f"{self.elapsed_s / 60:.1f} minutes; those of epoch {self.best_epoch} were kept",
            *(f"{name}: {_listed(found)}" for name, found in rows),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as report.json has them."""
        return asdict(self) | {"task": str(self.task)}


def _listed(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
