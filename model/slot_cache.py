"""SlotCache: keys and values of every sequence, one fixed row of one tensor for each."""

from __future__ import annotations

import torch
from torch import Tensor

from model.config import GPTConfig


class SlotCache:
    """Keys and values, (L, 2, S, H, T, D): room for ``num_slots`` whole sequences.

    Owned by the runner. A slot's content is valid up to the position last written; what lies
    beyond is undefined (it may be NaN) and is never read. Views stay valid for the cache's life
    and are never gathered: a gather of 32 slots costs more than the step itself.
    """

    def __init__(
        self,
        config: GPTConfig,
        num_slots: int,
        num_positions: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_slots = num_slots
        self.num_positions = num_positions or config.num_positions
        self.data = torch.empty(
            (
                config.num_layers,
                2,
                num_slots,
                config.num_heads,
                self.num_positions,
                config.head_len,
            ),
            dtype=dtype,
            device=device,
        )

    def write(self, layer: int, slot: int, start: int, key: Tensor, value: Tensor) -> None:
        """Store ``key`` and ``value``, (N, H, D) each, at positions ``start`` to ``start + N``."""
        end = start + key.shape[0]
        self.data[layer, 0, slot, :, start:end] = key.transpose(0, 1)  # (N, H, D) -> (H, N, D)
        self.data[layer, 1, slot, :, start:end] = value.transpose(0, 1)

    def view(self, layer: int, slot: int, end: int) -> tuple[Tensor, Tensor]:
        """Keys and values (H, end, D) of a slot, in place. Changes nothing."""
        return self.data[layer, 0, slot, :, :end], self.data[layer, 1, slot, :, :end]

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of ``source`` into ``target``, all layers."""
        self.data[:, :, target, :, :length] = self.data[:, :, source, :, :length]

    def poison(self, slot: int, start: int = 0) -> None:
        """Fill a slot from ``start`` on with NaN: a read of what was never written shows itself."""
        self.data[:, :, slot, :, start:] = float("nan")
