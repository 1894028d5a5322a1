"""The loss curve of a run, as CSV for scripts and as PNG for people."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.run_directory import replace_file


@dataclass(frozen=True, slots=True)
class Point:
    """One step. ``held_out_bits_per_byte`` is there for the steps that were scored."""

    step: int
    num_tokens: int
    loss: float
    learning_rate: float
    elapsed_s: float
    held_out_bits_per_byte: float | None = None


class Curve:
    """The points so far, in memory."""

    def __init__(self, path: Path, num_steps: int) -> None:
        """Take up the CSV at ``path`` where it is, up to ``num_steps`` steps."""
        self.points = [point for point in _read(path) if point.step <= num_steps]
        self._path = path

    def save(self) -> None:
        """Replace the CSV."""
        replace_file(self._path, self._write)

    def draw(self) -> None:
        """Replace the PNG beside it."""
        replace_file(self._path.with_suffix(".png"), self._draw)

    def _write(self, dest: Path) -> None:
        with dest.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Point)])
            writer.writeheader()
            writer.writerows(asdict(point) for point in self.points)

    def _draw(self, dest: Path) -> None:
        figure = Figure(figsize=(8, 5))
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot(xlabel="tokens", ylabel="training loss, nats per token")
        axes.grid(alpha=0.3)
        axes.plot([p.num_tokens for p in self.points], [p.loss for p in self.points], lw=0.7)
        scored = [
            (p.num_tokens, p.held_out_bits_per_byte)
            for p in self.points
            if p.held_out_bits_per_byte is not None
        ]
        if scored:
            other = axes.twinx()
            other.set_ylabel("held-out bits per byte")
            num_tokens, bits = zip(*scored, strict=True)
            other.plot(num_tokens, bits, "o-", color="tab:orange")
        with dest.open("wb") as file:
            canvas.print_png(file)


def _read(path: Path) -> list[Point]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [_point(row) for row in csv.DictReader(file)]


def _point(row: dict[str, str]) -> Point:
    bits = row["held_out_bits_per_byte"]
    return Point(
        step=int(row["step"]),
        num_tokens=int(row["num_tokens"]),
        loss=float(row["loss"]),
        learning_rate=float(row["learning_rate"]),
        elapsed_s=float(row["elapsed_s"]),
        held_out_bits_per_byte=float(bits) if bits else None,
    )
