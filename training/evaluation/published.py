"""The zero-shot figures of the GPT-2 paper (Radford et al. 2019, table 3), by its own sizes."""

from __future__ import annotations

from collections.abc import Mapping

COLUMNS = (
    *("LAMBADA ppl", "LAMBADA acc", "CBT-CN acc", "CBT-NE acc"),
    *("WikiText2 ppl", "PTB ppl", "WikiText103 ppl"),
)

SIZES: Mapping[str, tuple[int, int]] = {
    "117M": (12, 768),
    "345M": (24, 1_024),
    "762M": (36, 1_280),
    "1542M": (48, 1_600),
}
"""The paper's name -> layers and channels."""

_ROWS: Mapping[str, tuple[float, ...]] = {
    "117M": (35.13, 45.99, 87.65, 83.4, 29.41, 65.85, 37.50),
    "345M": (15.60, 55.48, 92.35, 87.1, 22.76, 47.33, 26.37),
    "762M": (10.87, 60.12, 93.45, 88.0, 19.93, 40.31, 22.05),
    "1542M": (8.63, 63.24, 93.30, 89.05, 18.34, 35.76, 17.48),
}


def size_of(num_layers: int, num_channels: int) -> str | None:
    """The paper's name for a shape, or None for one that it does not have."""
    found = (name for name, shape in SIZES.items() if shape == (num_layers, num_channels))
    return next(found, None)


def published(column: str, size: str) -> float:
    """The paper's figure, in COLUMNS for one of SIZES."""
    return _ROWS[size][COLUMNS.index(column)]
