"""The curves of fine-tuning, as CSV for scripts and as PNG for people."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.run_directory import replace_file

_LM = "language model (L1)"


@dataclass(frozen=True, slots=True)
class TaskPoint:
    """One step: the loss of the task (L2) and of the language model (L1), in nats.

    ``dev_metric`` is there for the last step of each epoch.
    """

    step: int
    epoch: float
    task_loss: float
    lm_loss: float | None
    learning_rate: float
    elapsed_s: float
    dev_metric: float | None = None


class TaskCurve:
    """The points so far, in memory."""

    def __init__(self, path: Path, num_steps: int, metric: str) -> None:
        """Take up the CSV at ``path`` where it is, up to ``num_steps`` steps."""
        self.points = [point for point in _read(path) if point.step <= num_steps]
        self._path = path
        self._metric = metric

    def save(self) -> None:
        """Replace the CSV."""
        replace_file(self._path, self._write)

    def draw(self) -> None:
        """Replace the PNG beside it."""
        replace_file(self._path.with_suffix(".png"), self._draw)

    def _write(self, dest: Path) -> None:
        with dest.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(TaskPoint)])
            writer.writeheader()
            writer.writerows(asdict(point) for point in self.points)

    def _draw(self, dest: Path) -> None:
        figure = Figure(figsize=(8, 5))
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot(xlabel="epochs", ylabel="training loss, nats")
        axes.grid(alpha=0.3)
        epochs = [point.epoch for point in self.points]
        axes.plot(epochs, [p.task_loss for p in self.points], lw=0.7, label="task (L2)")
        learned = [(p.epoch, p.lm_loss) for p in self.points if p.lm_loss is not None]
        axes.plot([e for e, _ in learned], [loss for _, loss in learned], lw=0.7, label=_LM)
        axes.legend(loc="upper left")
        other = axes.twinx()
        other.set_ylabel(f"dev {self._metric}")
        scored = [(p.epoch, p.dev_metric) for p in self.points if p.dev_metric is not None]
        other.plot([e for e, _ in scored], [m for _, m in scored], "o-", color="tab:green")
        with dest.open("wb") as file:
            canvas.print_png(file)


def _read(path: Path) -> list[TaskPoint]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [_point(row) for row in csv.DictReader(file)]


def _point(row: dict[str, str]) -> TaskPoint:
    return TaskPoint(
        step=int(row["step"]),
        epoch=float(row["epoch"]),
        task_loss=float(row["task_loss"]),
        lm_loss=float(row["lm_loss"]) if row["lm_loss"] else None,
        learning_rate=float(row["learning_rate"]),
        elapsed_s=float(row["elapsed_s"]),
        dev_metric=float(row["dev_metric"]) if row["dev_metric"] else None,
    )
