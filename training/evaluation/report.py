"""What came out: a table for people, with the GPT-2 paper's figures, and plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from training.evaluation.published import SIZES, published, size_of
from training.evaluation.session import Measure, Result


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Which network was measured, and how it was run."""

    checkpoint: str
    weights_hash: str
    num_parameters: int
    num_layers: int
    num_channels: int
    device: str
    dtype: str
    kernels: str

    @property
    def size(self) -> str | None:
        """The GPT-2 paper's name for its shape, or None."""
        return size_of(self.num_layers, self.num_channels)

    @property
    def title(self) -> str:
        """A line for people."""
        return (
            f"{self.checkpoint}: {self.num_parameters:,} parameters, {self.dtype} on "
            f"{self.device} ({self.kernels})"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """All results. ``limit`` says that they are of a part only."""

    evaluated: Evaluated
    results: tuple[Result, ...]
    window_len: int
    stride: int
    limit: int | None
    elapsed_s: float

    def lines(self) -> list[str]:
        """For people: a row for each figure, the paper's of the same size beside it.

        A decoder of another size stands beside the paper's smallest.
        """
        size = self.evaluated.size or next(iter(SIZES))
        rows = [
            (result.on, result.protocol, measure.name, _shown(measure), _paper(measure, size))
            for result in self.results
            for measure in result.measures
        ]
        heads = ("on", "protocol", "measure", "measured", f"GPT-2 {size}")
        return [
            self.evaluated.title,
            f"windows of {self.window_len}, plain ones {self.stride} apart{self._limited()}; "
            f"{self.elapsed_s:,.0f} s",
            "",
            *table((heads, *rows)),
            "",
            *(f"{r.on}, {r.protocol}: {_counted(r.counts)}" for r in self.results),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values without infinities, which JSON does not have."""
        size = self.evaluated.size
        return {
            **asdict(self.evaluated),
            "published_size": size,
            "window_len": self.window_len,
            "stride": self.stride,
            "limit": self.limit,
            "elapsed_s": round(self.elapsed_s, 3),
            "results": [_plain(result, size) for result in self.results],
        }

    def _limited(self) -> str:
        return "" if self.limit is None else f", at most {self.limit} windows or examples"


def _plain(result: Result, size: str | None) -> dict[str, Any]:
    return {
        "on": result.on,
        "protocol": result.protocol,
        "counts": dict(result.counts),
        "measures": [
            {
                "name": measure.name,
                "value": measure.value if math.isfinite(measure.value) else None,
                "published": (
                    published(measure.published_as, size) if measure.published_as and size else None
                ),
            }
            for measure in result.measures
        ],
    }


def _paper(measure: Measure, size: str) -> str:
    return "" if measure.published_as is None else f"{published(measure.published_as, size):.2f}"


def _shown(measure: Measure) -> str:
    return f"{measure.value:,.{measure.num_decimals}f}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns: the first three to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column < 3 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
