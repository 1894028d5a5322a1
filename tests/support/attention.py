"""One step's attention by any path, as the decoder calls it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from model.attention import SlotAttention, Span, score_scale
from model.config import GPTConfig
from model.decoder import Attend
from model.kernels import native
from model.kernels.native import NativeKernels
from model.slot_cache import KEY_TILE, SlotCache


def kernels_for(path: str) -> NativeKernels | None:
    """The native kernels of ``path``, None for ``torch``; skips where this machine lacks them."""
    kernels = None if path == "torch" else native.load(path)
    if kernels is None and path != "torch":
        pytest.skip(f"no {path} kernels on this machine")
    return kernels


def cache_for(
    path: str,
    config: GPTConfig,
    num_slots: int,
    dtype: torch.dtype = torch.float32,
    num_positions: int | None = None,
) -> SlotCache:
    """A cache in the layout that ``path`` reads, full of NaN."""
    tile = 1 if path == "torch" else KEY_TILE
    cache = SlotCache(config, num_slots, num_positions, dtype, key_tile=tile)
    for slot in range(num_slots):
        cache.poison(slot)
    return cache


def attend_by(path: str, config: GPTConfig, cache: SlotCache, spans: Sequence[Span]) -> Attend:
    """Attention for one step's rows."""
    kernels = kernels_for(path)
    if kernels is None:
        return SlotAttention(config, cache, spans)

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        qkv = torch.cat((query, key, value), dim=1)
        return kernels.attention(qkv, cache, layer, spans, score_scale(config, layer))

    return attend
