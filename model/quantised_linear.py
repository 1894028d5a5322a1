"""Linear layers on quantised weights, in plain torch: what the native products compute.

Rows are rounded to 8 bits with a scale of their own, or one for each group of inputs that share
one in the weights, and the products of whole numbers are exact. So a row's bits depend on
neither its batch nor the order of adding, and the native kernels of every instruction set agree
with these layers.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from model.quantised import GROUP_LEN, Int4Matrix, Int8Matrix, QuantisedMatrix

_LIMIT = 127
_EXACT_INPUTS = 1024
"""So many products of two values of 8 bits add up to less than 2^24: exact in float32."""

_TILE_ROWS = 64
"""Rows whose sums over single groups are in memory at once."""


class Int8Linear(nn.Module):
    """``sum(q * value) * (row scale * weight scale) + bias``; the sum is exact, in int32."""

    def __init__(self, matrix: Int8Matrix, bias: Tensor | None) -> None:
        super().__init__()
        self._values = matrix.values()  # (M, K)
        self._scales = matrix.scales[: matrix.num_outputs]
        self._bias = None if bias is None else bias.detach().float()
        self._product = torch._int_mm if has_exact_int_mm() else blocked_int_mm  # noqa: SLF001

    def forward(self, x: Tensor) -> Tensor:
        """(N, K) -> (N, M), float32."""
        rows, scales = quantise_rows(x)
        out = self._product(rows, self._values.t()).float()  # (N, M)
        out *= scales * self._scales
        return out if self._bias is None else out.add_(self._bias)


class Int4Linear(nn.Module):
    """``sum(group sum * (weights' scale * row's scale)) + bias``, groups in ascending order."""

    def __init__(self, matrix: Int4Matrix, bias: Tensor | None) -> None:
        super().__init__()
        levels = torch.unflatten(matrix.values(), 1, (-1, GROUP_LEN))  # (M, G, GROUP_LEN)
        self._levels = levels.permute(1, 2, 0).contiguous()  # (G, GROUP_LEN, M)
        self._scales = matrix.group_scales().float().t().contiguous()  # (G, M)
        self._bias = None if bias is None else bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """(N, K) -> (N, M), float32."""
        groups, scales = quantise_groups(x)
        levels = self._levels.float()
        tiles = zip(
            torch.split(groups.float(), _TILE_ROWS, 1),
            torch.split(scales, _TILE_ROWS, 1),
            strict=True,
        )
        out = torch.cat([self._totals(*tile, levels) for tile in tiles])
        return out if self._bias is None else out.add_(self._bias)

    def _totals(self, groups: Tensor, scales: Tensor, levels: Tensor) -> Tensor:
        """(G, N, GROUP_LEN) with scales (G, N, 1) -> (N, M). Each group's sum is exact."""
        sums = torch.bmm(groups, levels).mul_(self._scales[:, None] * scales)  # (G, N, M)
        total = torch.zeros_like(sums[0])
        for group_sum in sums:
            total += group_sum
        return total


def quantised_linear(matrix: QuantisedMatrix, bias: Tensor | None) -> Int8Linear | Int4Linear:
    """The layer of ``matrix``."""
    if isinstance(matrix, Int8Matrix):
        return Int8Linear(matrix, bias)
    return Int4Linear(matrix, bias)


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> whole numbers (N, K) int8 and the scale of each row (N, 1) float32.

    Rounded half to even. A row of zeros has scale 0.
    """
    x = x.float()
    largest = x.abs().amax(1, keepdim=True)  # (N, 1)
    # Not _LIMIT / largest, which torch takes for a reciprocal times _LIMIT: ties fall elsewhere.
    inverse = torch.where(largest == 0, 0.0, torch.full_like(largest, _LIMIT) / largest)
    return (x * inverse).round_().to(torch.int8), largest / _LIMIT


def quantise_groups(x: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> whole numbers (G, N, GROUP_LEN) int8 and their scales (G, N, 1) float32.

    Every group of inputs as quantise_rows does a row.
    """
    groups = torch.unflatten(x, 1, (-1, GROUP_LEN)).transpose(0, 1)  # (G, N, GROUP_LEN)
    rows, scales = quantise_rows(groups.flatten(0, 1))
    return torch.unflatten(rows, 0, groups.shape[:2]), torch.unflatten(scales, 0, groups.shape[:2])


@cache
def has_exact_int_mm() -> bool:
    """Whether ``torch._int_mm`` adds without saturation on this processor.

    Before VNNI, sums of two products were held in 16 bits (oneDNN's guide: Nuances of int8
    computations).
    """
    extremes = torch.tensor([127, -127], dtype=torch.int8)
    rows = extremes.repeat(3, 32)  # (3, 64)
    weights = torch.cat((rows, -rows, rows.abs())).repeat(6, 1)  # (54, 64)
    try:
        return all(
            torch.equal(torch._int_mm(x, weights.t()), blocked_int_mm(x, weights.t()))  # noqa: SLF001
            for x in (rows[:1], rows, rows.abs())
        )
    except RuntimeError:
        return False


def blocked_int_mm(x: Tensor, weight: Tensor) -> Tensor:
    """Whole numbers (N, K) times (K, M), int8, exactly: int32 (N, M)."""
    out = torch.zeros(x.shape[0], weight.shape[1], dtype=torch.int32)
    blocks = zip(torch.split(x, _EXACT_INPUTS, 1), torch.split(weight, _EXACT_INPUTS), strict=True)
    for left, right in blocks:
        out += (left.float() @ right.float()).int()
    return out
