"""Causal attention, one signature (decoder.Attend) for every place that keys can live.

SlotAttention is the reference for serving: it loops over rows on unpadded slot views and sums
in an order that depends on nothing but the query's own position. CausalAttention is the whole
window at once, for training and evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import GPTConfig
from model.slot_cache import SlotCache

KEY_TILE = 128
"""Keys whose weighted values are summed in one product. Products over at most 128 terms add
them in sequence, so that a longer slot view only appends exact zeros."""

MIN_QUERIES = 4
"""Queries a product has at least: below 4 the matrix library takes other kernels, which sum in
another order. A decode step pads its single query."""

MIN_KEYS = 16
"""Keys a product has at least, for the same reason; fewer are padded by zeros and masked."""


@dataclass(frozen=True, slots=True)
class Span:
    """The tokens of one row in this step: ``length`` of them, from ``start`` of ``slot`` on.

    ``adapter`` is the index of what stands beside the network's matrices for them, if anything.
    """

    slot: int
    start: int
    length: int
    adapter: int | None = None

    @property
    def end(self) -> int:
        """The position after the last."""
        return self.start + self.length


def score_scale(config: GPTConfig, layer: int) -> float:
    """What scores are multiplied with (upstream ``scale_attn_weights`` and ``..._layer_idx``)."""
    scale = 1 / math.sqrt(config.head_len) if config.is_attention_scaled else 1.0
    return scale / (layer + 1) if config.is_attention_layer_scaled else scale


class SlotAttention:
    """Attention over a SlotCache, row by row, in float32. Writes the cache, then reads it."""

    def __init__(self, config: GPTConfig, cache: SlotCache, spans: Sequence[Span]) -> None:
        self._config = config
        self._cache = cache
        self._spans = spans

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(N, C) -> (N, C); the rows of the step follow each other along N."""
        shape = (-1, self._config.num_heads, self._config.head_len)
        query, key, value = (x.reshape(shape) for x in (query, key, value))  # (N, C) -> (N, H, D)
        out = torch.empty_like(query)
        offset = 0
        for span in self._spans:
            rows = slice(offset, offset + span.length)
            self._cache.write(layer, span.slot, span.start, key[rows], value[rows])
            keys, values = self._cache.view(layer, span.slot, span.end)
            out[rows] = _attend(query[rows].float(), keys, values, score_scale(self._config, layer))
            offset = rows.stop
        return out.flatten(1)  # (N, H, D) -> (N, C)


def _attend(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """The last N of T positions attend to themselves and what came before.

    query (N, H, D), keys and values (H, T, D) -> (N, H, D). Bits of a query's result do not
    depend on N.
    """
    num_queries, end = query.shape[0], keys.shape[1]
    query = query.transpose(0, 1) * scale  # (N, H, D) -> (H, N, D)
    query = F.pad(query, (0, 0, 0, max(MIN_QUERIES - num_queries, 0)))
    if end < MIN_KEYS:
        keys, values = (F.pad(x, (0, 0, 0, MIN_KEYS - end)) for x in (keys, values))
    scores = torch.bmm(query, keys.float().transpose(1, 2))  # (H, N, T)
    if num_queries > 1 or end < MIN_KEYS:
        visible = torch.ones(scores.shape[1:], dtype=torch.bool, device=query.device)
        scores.masked_fill_(~visible.tril_(end - num_queries), float("-inf"))
    weights = (scores - scores.amax(-1, keepdim=True)).exp_()
    total = torch.zeros_like(weights[..., 0])  # (H, N)
    out = torch.zeros_like(query)  # (H, N, D)
    for start in range(0, scores.shape[-1], KEY_TILE):
        tile = slice(start, start + KEY_TILE)
        total += _tile_sum(weights[..., tile])
        out += torch.bmm(weights[..., tile], values[:, tile].float())
    out /= total.unsqueeze(-1)
    return out[:, :num_queries].transpose(0, 1)  # (H, N, D) -> (N, H, D)


def _tile_sum(weights: Tensor) -> Tensor:
    """Sum over at most KEY_TILE keys, in the order of a full tile. (H, N, t) -> (H, N)."""
    missing = KEY_TILE - weights.shape[-1]
    return F.pad(weights, (0, missing)).sum(-1) if missing else weights.sum(-1)


class CausalAttention:
    """Whole windows of one length at once, nothing cached: N = windows x window length."""

    def __init__(self, config: GPTConfig, window_len: int, dropout: float = 0.0) -> None:
        self._config = config
        self._window_len = window_len
        self._dropout = dropout

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(N, C) -> (N, C)."""
        shape = (-1, self._window_len, self._config.num_heads, self._config.head_len)
        query, key, value = (
            x.reshape(shape).transpose(1, 2) for x in (query, key, value)
        )  # (N, C) -> (B, H, T, D)
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=self._dropout,
            is_causal=True,
            scale=score_scale(self._config, layer),
        )
        return out.transpose(1, 2).reshape(-1, self._config.num_channels)
