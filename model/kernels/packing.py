"""The order in which the native products read their weights.

A matrix (N, K) is cut into blocks of BLOCK_COLUMNS outputs. Within a block, ``group`` inputs of
one output lie together, then the block's other outputs, then the next inputs: one instruction
multiplies ``group`` inputs of 16 outputs, and a product reads its weights from front to end.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LANES = 16
"""Outputs of one vector; the number of outputs is padded to a multiple."""

BLOCK_COLUMNS = 48
"""Outputs of a block; the last one may be narrower by whole vectors."""


def padded(count: int, multiple: int) -> int:
    """``count`` rounded up to a multiple."""
    return -(-count // multiple) * multiple


def interleave(matrix: Tensor, group: int) -> Tensor:
    """(N, K) -> (N' * K'), N padded by zeros to LANES and K to ``group``.

    A block of W outputs is laid out (K' / group, W, group).
    """
    rows, inputs = matrix.shape
    matrix = F.pad(matrix, (0, -inputs % group, 0, -rows % LANES))
    blocks = [
        block.view(block.shape[0], -1, group).transpose(0, 1).reshape(-1)  # (W, K') -> (K'/g, W, g)
        for block in torch.split(matrix, BLOCK_COLUMNS)
    ]
    return torch.cat(blocks)


def deinterleave(packed: Tensor, rows: int, inputs: int, group: int) -> Tensor:
    """What :func:`interleave` was given, (N, K)."""
    num_inputs = padded(inputs, group)
    blocks = []
    for block in torch.split(packed, BLOCK_COLUMNS * num_inputs):
        width = block.numel() // num_inputs
        shaped = block.view(num_inputs // group, width, group).transpose(0, 1)
        blocks.append(shaped.reshape(width, num_inputs))
    return torch.cat(blocks)[:rows, :inputs].view(rows, inputs)
