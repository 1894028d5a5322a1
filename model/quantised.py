"""Matrices in 8 and 4 bits, laid out as the native products read them.

Both are symmetric: zero stays zero, and a product is integers times one scale. Int8Matrix has a
scale for each output; Int4Matrix one for every GROUP_LEN inputs of an output, and levels that
are not evenly spaced (model/int4_search.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.int4_search import CODEBOOK, GROUP_LEN, fit_matrix
from model.kernels.packing import BLOCK_COLUMNS, LANES, deinterleave, interleave, padded

__all__ = ["CODEBOOK", "GROUP_LEN", "LAYOUT", "Int4Matrix", "Int8Matrix", "QuantisedMatrix"]

LAYOUT = f"interleaved-{BLOCK_COLUMNS}"
"""The name of the order that the bytes are stored in."""

INT8_LIMIT = 127
INPUT_GROUP = 4
"""Bytes of one output that lie together: what one instruction multiplies."""

_SIGN_BIT = 0x80
_SMALLEST = 1e-38
"""The inverse of less is none of float32's numbers."""
_BLOCK_ROWS = 64 * BLOCK_COLUMNS
"""Rows quantised at once: a head's float32 copy would be larger than the whole model."""

_HALF_GROUP = GROUP_LEN // 2


@dataclass(frozen=True, slots=True)
class Int8Matrix:
    """Weights (N, K) as ``scale * value``, values in -127..127, one scale an output.

    ``packed`` is uint8: values + 128, interleaved in fours (model/kernels/packing.py), padded by
    128. ``scales`` is float32 (N padded to LANES), padded by 0. Raises ValueError for other sizes.
    """

    packed: Tensor
    scales: Tensor
    num_outputs: int
    num_inputs: int

    def __post_init__(self) -> None:
        rows = padded(self.num_outputs, LANES)
        _check("packed", self.packed, torch.uint8, rows * padded(self.num_inputs, INPUT_GROUP))
        _check("scales", self.scales, torch.float32, rows)

    @classmethod
    def quantise(cls, weight: Tensor) -> Int8Matrix:
        """``weight`` (N, K), rounded to nearest. A row of zeros has scale 0."""
        num_outputs, num_inputs = weight.shape
        blocks, scales = zip(
            *map(_int8_block, torch.split(weight.detach(), _BLOCK_ROWS)), strict=True
        )
        padding = torch.zeros(-num_outputs % LANES)
        return cls(torch.cat(blocks), torch.cat((*scales, padding)), num_outputs, num_inputs)

    def values(self) -> Tensor:
        """The integers, int8 (N, K)."""
        plain = deinterleave(self.packed, self.num_outputs, self.num_inputs, INPUT_GROUP)
        return (plain ^ _SIGN_BIT).view(torch.int8)

    def dequantise(self) -> Tensor:
        """The weights, float32 (N, K)."""
        return self.values() * self.scales[: self.num_outputs, None]

    def rows(self, ids: Tensor) -> Tensor:
        """The weights of the outputs ``ids`` alone, float32 (len(ids), K)."""
        found = _packed_rows(self.packed, self.num_outputs, self.num_inputs, INPUT_GROUP, ids)
        return (found ^ _SIGN_BIT).view(torch.int8) * self.scales[ids][:, None]


@dataclass(frozen=True, slots=True)
class Int4Matrix:
    """Weights (N, K) as ``scale * CODEBOOK[code]``, one scale for GROUP_LEN inputs of an output.

    A byte holds the codes of inputs t (low half) and t + GROUP_LEN / 2 (high half) of a group.
    ``packed`` is uint8: those bytes (N, K / 2), interleaved in fours. ``scales`` is float16:
    (N, K / GROUP_LEN), interleaved one by one. Both are padded by 0. Raises ValueError for other
    sizes, and for inputs that are no multiple of GROUP_LEN.
    """

    packed: Tensor
    scales: Tensor
    num_outputs: int
    num_inputs: int

    def __post_init__(self) -> None:
        _check_inputs(self.num_inputs)
        rows = padded(self.num_outputs, LANES)
        _check("packed", self.packed, torch.uint8, rows * self.num_inputs // 2)
        _check("scales", self.scales, torch.float16, rows * self.num_inputs // GROUP_LEN)

    @classmethod
    def quantise(cls, weight: Tensor, energy: Tensor | None = None) -> Int4Matrix:
        """``weight`` (N, K), each group with the scale and codes of least squared error.

        ``energy`` (K), the mean square of each input, is what an error there counts.
        """
        num_outputs, num_inputs = weight.shape
        _check_inputs(num_inputs)
        packed, scales = [], []
        for rows in torch.split(weight.detach(), _BLOCK_ROWS):
            group_scales, codes = fit_matrix(rows.float(), energy)
            low, high = torch.unflatten(codes, 1, (-1, 2, _HALF_GROUP)).unbind(2)  # (N, K / 32, 16)
            packed.append(interleave((low | high << 4).flatten(1), INPUT_GROUP))
            scales.append(interleave(group_scales, 1))
        return cls(torch.cat(packed), torch.cat(scales), num_outputs, num_inputs)

    def values(self) -> Tensor:
        """The levels, int8 (N, K)."""
        half = self.num_inputs // 2
        return _levels(deinterleave(self.packed, self.num_outputs, half, INPUT_GROUP))

    def group_scales(self) -> Tensor:
        """The scales, float16 (N, K / GROUP_LEN)."""
        return deinterleave(self.scales, self.num_outputs, self.num_inputs // GROUP_LEN, 1)

    def dequantise(self) -> Tensor:
        """The weights, float32 (N, K)."""
        return _scaled(self.values(), self.group_scales())

    def rows(self, ids: Tensor) -> Tensor:
        """The weights of the outputs ``ids`` alone, float32 (len(ids), K)."""
        half, num_groups = self.num_inputs // 2, self.num_inputs // GROUP_LEN
        packed = _packed_rows(self.packed, self.num_outputs, half, INPUT_GROUP, ids)
        return _scaled(
            _levels(packed), _packed_rows(self.scales, self.num_outputs, num_groups, 1, ids)
        )


QuantisedMatrix = Int8Matrix | Int4Matrix


def _int8_block(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Packed values and scales (N) of rows (N, K) that fill whole blocks, or are the last."""
    rows = rows.float()
    scales = rows.abs().amax(1) / INT8_LIMIT  # (N, K) -> (N)
    inverse = torch.where(scales > _SMALLEST, 1 / scales, 0.0)
    values = (rows * inverse[:, None]).round_().clamp_(-INT8_LIMIT, INT8_LIMIT)
    packed = interleave(values.to(torch.int8), INPUT_GROUP).view(torch.uint8)
    return packed ^ _SIGN_BIT, scales


def _check_inputs(num_inputs: int) -> None:
    if num_inputs % GROUP_LEN:
        raise ValueError(
            f"the inputs of an int4 matrix must be a multiple of {GROUP_LEN}, got {num_inputs}"
        )


def _check(name: str, tensor: Tensor, dtype: torch.dtype, size: int) -> None:
    if tensor.dtype != dtype or tensor.shape != (size,):
        raise ValueError(
            f"{name} must be {size:,} numbers of {dtype}, "
            f"got shape {tuple(tensor.shape)} of {tensor.dtype}"
        )


def _levels(packed: Tensor) -> Tensor:
    """Bytes (N, K / 2) -> levels of the codebook, int8 (N, K)."""
    groups = torch.unflatten(packed, 1, (-1, _HALF_GROUP))  # (N, K / 32, 16)
    codes = torch.cat((groups & 0x0F, groups >> 4), 2).flatten(1)  # (N, K)
    codebook = torch.tensor(CODEBOOK, dtype=torch.int8)
    return codebook.index_select(0, codes.view(-1).int()).view_as(codes)


def _scaled(levels: Tensor, scales: Tensor) -> Tensor:
    """Levels (N, K) times the scales of their groups (N, K / GROUP_LEN), float32 (N, K)."""
    groups = torch.unflatten(levels, 1, (-1, GROUP_LEN))
    return (groups * scales.float()[:, :, None]).flatten(1)


def _packed_rows(packed: Tensor, num_rows: int, num_inputs: int, group: int, ids: Tensor) -> Tensor:
    """Rows ``ids`` of what :func:`interleave` was given, (len(ids), num_inputs)."""
    blocks = torch.div(ids, BLOCK_COLUMNS, rounding_mode="floor")
    firsts = blocks * BLOCK_COLUMNS
    widths = (padded(num_rows, LANES) - firsts).clamp(max=BLOCK_COLUMNS)
    starts = firsts * padded(num_inputs, group) + (ids - firsts) * group
    inputs = torch.arange(num_inputs)
    steps = torch.div(inputs, group, rounding_mode="floor") * group
    return packed[starts[:, None] + steps * widths[:, None] + inputs % group]
