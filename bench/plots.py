"""Throughput and latency against the number of streams, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.results import Result

Lines = Mapping[str, Sequence[tuple[float, float]]]
"""Label -> points, in any order."""


def plot_peers(results: Sequence[Result], folder: Path) -> list[Path]:
    """``throughput.png`` and ``latency.png`` of the decoding steps, ours drawn thick."""
    rates: dict[str, list[tuple[float, float]]] = {}
    latencies: dict[str, list[tuple[float, float]]] = {}
    for r in results:
        if r.decode_rate is not None and r.step_p50_ms is not None:
            rates.setdefault(r.system, []).append((r.num_streams, r.decode_rate))
            latencies.setdefault(r.system, []).append((r.num_streams, r.step_p50_ms))
    return [
        draw(folder / "throughput.png", rates, "streams at once", "decode tokens/s"),
        draw(folder / "latency.png", latencies, "streams at once", "median step, ms"),
    ]


def draw(path: Path, lines: Lines, x_label: str, y_label: str) -> Path:
    """One plot, both axes logarithmic to the base 2; ours are whole lines, the others dashed."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    colours = [colormaps["tab20"](index) for index in range(20)]
    for index, (label, points) in enumerate(lines.items()):
        if not points:
            continue
        xs, ys = zip(*sorted(points), strict=True)
        style = "o-" if label.startswith("ours") else "s--"
        width = 2.5 if label.startswith("ours") else 1.2
        colour = colours[index % len(colours)]
        axes.plot(xs, ys, style, linewidth=width, color=colour, label=label)
    _label(axes, x_label, y_label, {x for points in lines.values() for x, _ in points})
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=120)
    return path


def _label(axes: Any, x_label: str, y_label: str, ticks: set[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(sorted(ticks), [f"{tick:.2g}" for tick in sorted(ticks)])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(visible=True, alpha=0.3)
