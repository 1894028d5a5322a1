"""SlotCache: keys and values of every sequence, one fixed row of one tensor for each."""

from __future__ import annotations

import torch
from torch import Tensor

from model.config import GPTConfig

KEY_TILE = 16
"""Keys that the native kernels keep side by side."""


class SlotCache:
    """Room for ``num_slots`` whole sequences.

    ``values`` are (L, S, H, T, D). ``keys`` are (L, S, H, T / tile, D, tile): channel by channel,
    the keys of ``key_tile`` positions together, as the native kernels multiply them; with a tile
    of 1 that is (T, D) again. T is ``num_positions`` rounded up to whole tiles.

    In int8 every head's key and value has a scale a position, amax / 127: ``key_scales`` and
    ``value_scales`` (L, S, H, T), float32; else these are None.

    Owned by the runner. A slot's content is valid up to the position last written; what lies
    beyond is undefined (it may be NaN) and reaches no result. Slots are never gathered: a
    gather of 32 slots costs more than the step itself.
    """

    def __init__(
        self,
        config: GPTConfig,
        num_slots: int,
        num_positions: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        key_tile: int = 1,
    ) -> None:
        self.num_slots = num_slots
        self.num_positions = num_positions or config.num_positions
        self.key_tile = key_tile
        num_tiles = -(-self.num_positions // key_tile)
        lead = (config.num_layers, num_slots, config.num_heads)
        self.keys = torch.empty(
            (*lead, num_tiles, config.head_len, key_tile), dtype=dtype, device=device
        )
        self.values = torch.empty(
            (*lead, num_tiles * key_tile, config.head_len), dtype=dtype, device=device
        )
        self.key_scales: Tensor | None = None
        self.value_scales: Tensor | None = None
        if dtype == torch.int8:
            self.key_scales = torch.empty((*lead, num_tiles * key_tile), device=device)
            self.value_scales = torch.empty_like(self.key_scales)

    @property
    def dtype(self) -> torch.dtype:
        """What keys and values are rounded to."""
        return self.keys.dtype

    def write(self, layer: int, slot: int, start: int, key: Tensor, value: Tensor) -> None:
        """Store ``key`` and ``value``, (N, H, D) each, at positions ``start`` to ``start + N``."""
        end = start + key.shape[0]
        places = torch.arange(start, end, device=key.device)
        tile, lane = places // self.key_tile, places % self.key_tile
        if self.key_scales is not None and self.value_scales is not None:
            key, self.key_scales[layer, slot, :, start:end] = whole_numbers(key)
            value, self.value_scales[layer, slot, :, start:end] = whole_numbers(value)
        # Between indices a slice moves the indexed axis to the front: (N, H, D).
        self.keys[layer, slot][:, tile, :, lane] = key.to(self.dtype)
        self.values[layer, slot, :, start:end] = value.transpose(0, 1)  # (N, H, D) -> (H, N, D)

    def view(self, layer: int, slot: int, end: int) -> tuple[Tensor, Tensor]:
        """Keys and values (H, end, D) of a slot; in place where the tile is 1, and not int8."""
        tiles = self.keys[layer, slot].transpose(-1, -2)  # (H, T / tile, D, tile) -> (.., tile, D)
        keys, values = tiles.flatten(1, 2)[:, :end], self.values[layer, slot, :, :end]
        if self.key_scales is None or self.value_scales is None:
            return keys, values
        scales = (self.key_scales[layer, slot, :, :end], self.value_scales[layer, slot, :, :end])
        return keys * scales[0].unsqueeze(-1), values * scales[1].unsqueeze(-1)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of ``source`` into ``target``, all layers."""
        num_tiles = -(-length // self.key_tile)  # what the last tile has beyond is never used
        self.keys[:, target, :, :num_tiles] = self.keys[:, source, :, :num_tiles]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]
        for scales in (self.key_scales, self.value_scales):
            if scales is not None:
                scales[:, target, :, :length] = scales[:, source, :, :length]

    def poison(self, slot: int, start: int = 0) -> None:
        """Fill a slot from ``start`` on with NaN: a read of what was never written shows itself."""
        if self.key_scales is not None and self.value_scales is not None:
            for scales in (self.key_scales, self.value_scales):
                scales[:, slot, :, start:] = float("nan")
            return
        self.values[:, slot, :, start:] = float("nan")
        tile, lane = divmod(start, self.key_tile)
        if lane:
            self.keys[:, slot, :, tile, :, lane:] = float("nan")
            tile += 1
        self.keys[:, slot, :, tile:] = float("nan")


def whole_numbers(x: Tensor) -> tuple[Tensor, Tensor]:
    """(N, H, D) as an int8 cache keeps it: whole numbers of -127 to 127, and scales (H, N).

    NaN makes a scale NaN, infinity makes it infinite: neither is hidden.
    """
    amax = x.abs().amax(-1)  # (N, H, D) -> (N, H)
    # torch turns number / tensor into number * (1 / tensor), which rounds twice.
    inverse = torch.where(amax > 0, torch.full_like(amax, 127.0) / amax, 0.0)
    return (x * inverse.unsqueeze(-1)).round(), (amax / 127).transpose(0, 1)
