"""Sizes of tiles. They depend on the shape of a weight and never on how many rows there are.

A row's sums then run in one order whatever the batch: tiles along the inputs have one length a
weight, splits of the inputs are counted a weight, and keys are split at fixed positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

ROW_TILE = 16
"""Rows of a product: the height of the smallest matrix instruction."""

WIDE_ROW_TILE = 64
WIDE_OUTPUT_TILE = 64
"""Rows and outputs of a product of prefill; rows of the head's for many rows, if not strict."""

MANY_ROWS = 64
"""From here on the matrix library is faster than products that read all weights for 16 rows."""

KEY_SPLIT = 128
"""Keys that one program of decode attention sums up."""

QUERY_TILE = 16
KEY_TILE = 64
"""Queries and keys of one product of prefill attention."""

VOCAB_TILE = 2048
"""Logits that the sampling kernel looks at together."""

NORM_TILE = 256
"""Channels whose mean and variance are taken at once."""

_PROGRAMS = 128
"""About one program for each of the multiprocessors of an H100 or H200 (132)."""


@dataclass(frozen=True, slots=True)
class ProductTiles:
    """How a (M, K) weight is cut: outputs and inputs of a tile, inputs of a split, splits."""

    num_outputs: int
    num_inputs: int
    split_len: int
    num_splits: int


def product_tiles(num_outputs: int, num_inputs: int, dtype: torch.dtype) -> ProductTiles:
    """Tiles for a weight (M, K) whose partial sums are kept apart, ``num_splits`` of them."""
    tile = whole_product_tiles(num_outputs, num_inputs, dtype)
    programs = -(-num_outputs // tile.num_outputs)
    wanted = max(1, min(8, _PROGRAMS // programs))
    num_tiles = -(-num_inputs // tile.num_inputs)
    split_len = -(-num_tiles // wanted) * tile.num_inputs
    return ProductTiles(tile.num_outputs, tile.num_inputs, split_len, -(-num_inputs // split_len))


def whole_product_tiles(num_outputs: int, num_inputs: int, dtype: torch.dtype) -> ProductTiles:
    """Tiles for a weight (M, K) whose inputs are summed by one program."""
    width = 16 if num_outputs < 32 * _PROGRAMS else 64
    depth = 32 if dtype == torch.float32 else 128
    return ProductTiles(width, depth, num_inputs, 1)


def power_of_two(count: int, least: int = 1) -> int:
    """The smallest power of two that is at least ``count`` and ``least``."""
    return max(least, 1 << (count - 1).bit_length())
