"""The decoder of a step in plain torch: every shape is fixed, so that a graph can hold it.

This is the oracle for the kernels, and what runs where there are none. It gathers the slots of a
batch, which costs more than reading them in place would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.admission import MAX_LOGPROBS
from engine.device.sampling import DrawnRows, draws_of, filters_of
from engine.device.state import DeviceState
from model.attention import KEY_TILE, MIN_QUERIES, score_scale
from model.config import GPTConfig
from model.decoder import GPT
from model.kernels.gpu.buffers import Chosen
from model.kernels.gpu.reference_sampling import first_largest, noisy, sample
from model.slot_cache import SlotCache


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens of a prefill: several spans one after the other, then padding.

    ``ids``, ``slots`` and ``positions`` (N), ``last_rows`` (M), each span's last along N, and
    ``span_slots`` (M); ``draws`` (M) is 1 where a span's next token is drawn. ``tiles`` (tiles, 4)
    are the queries of model.kernels.gpu.buffers.QueryTiles. All int32. Padding belongs to the
    dummy slot, at position 0, and is in no tile.
    """

    ids: Tensor
    slots: Tensor
    positions: Tensor
    last_rows: Tensor
    span_slots: Tensor
    draws: Tensor
    tiles: Tensor


class Decoder(Protocol):
    """What the graphs hold. No method reads anything back; all shapes follow from the inputs'."""

    def decode(self, ids: Tensor, slots: Tensor, positions: Tensor) -> Tensor:
        """One token a row, all (B) int64: hidden states (B, C). Writes the cache."""
        ...

    def prefill(self, chunk: Chunk) -> Tensor:
        """Hidden states (N, C) of a chunk's tokens. Writes the cache."""
        ...

    def draw(self, hidden: Tensor, state: DeviceState, slots: Tensor, is_full: bool) -> DrawnRows:
        """The next token of ``slots`` (B) int64 after ``hidden`` (B, C)."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """(B, C) -> (B, V), float32."""
        ...


class TorchDecoder:
    """``GPT`` over a SlotCache with a key tile of 1 and a dummy slot at its end."""

    def __init__(self, gpt: GPT, cache: SlotCache) -> None:
        self._gpt = gpt
        self._cache = cache
        self._num_top = min(MAX_LOGPROBS, gpt.config.vocab_size)

    def decode(self, ids: Tensor, slots: Tensor, positions: Tensor) -> Tensor:
        """See Decoder."""
        attend = DecodeAttention(self._gpt.config, self._cache, slots, positions)
        hidden: Tensor = self._gpt(ids, positions, attend)  # (B, C)
        return hidden

    def prefill(self, chunk: Chunk) -> Tensor:
        """See Decoder."""
        positions = chunk.positions.long()
        attend = PrefillAttention(
            self._gpt.config, self._cache, chunk.slots.long(), positions, chunk.span_slots.long()
        )
        hidden: Tensor = self._gpt(chunk.ids.long(), positions, attend)  # (N, C)
        return hidden

    def draw(self, hidden: Tensor, state: DeviceState, slots: Tensor, is_full: bool) -> DrawnRows:
        """See Decoder."""
        logits, draws = self.logits(hidden), draws_of(state, slots)
        if not is_full:
            return DrawnRows(first_largest(noisy(logits, draws.temperatures, draws)))
        chosen = Chosen.allocate(len(slots), logits.shape[1], self._num_top, logits.device)
        sample(logits, draws, filters_of(state, slots), chosen)
        return DrawnRows(chosen.ids, chosen.logprobs, chosen.top_ids, chosen.top_logprobs)

    def logits(self, hidden: Tensor) -> Tensor:
        """See Decoder."""
        return self._gpt.logits(hidden)


class DecodeAttention:
    """One query a row, each over its own slot. Writes the cache, then reads it."""

    def __init__(
        self, config: GPTConfig, cache: SlotCache, slots: Tensor, positions: Tensor
    ) -> None:
        self._config = config
        self._cache = cache
        self._slots = slots
        self._positions = positions

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, C) -> (B, C)."""
        heads = _heads(self._config, query, key, value)  # (B, H, D) each
        _write(self._cache, layer, self._slots, self._positions, heads[1], heads[2])
        keys, values = _slots(self._cache, layer, self._slots)  # (B, H, T, D)
        one_query = heads[0].unsqueeze(2)  # (B, H, D) -> (B, H, 1, D)
        last = self._positions.view(-1, 1, 1)  # (B) -> (B, 1, 1)
        scale = score_scale(self._config, layer)
        return _attend(one_query, keys, values, last, scale).squeeze(2).flatten(1)  # (B, C)


class PrefillAttention:
    """Several spans; every query is held against every span's slot, and its own one counts."""

    def __init__(
        self,
        config: GPTConfig,
        cache: SlotCache,
        slots: Tensor,
        positions: Tensor,
        span_slots: Tensor,
    ) -> None:
        self._config = config
        self._cache = cache
        self._slots = slots
        self._positions = positions
        self._span_slots = span_slots

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(N, C) -> (N, C)."""
        heads = _heads(self._config, query, key, value)  # (N, H, D) each
        _write(self._cache, layer, self._slots, self._positions, heads[1], heads[2])
        queries = heads[0].transpose(0, 1).unsqueeze(0)  # (N, H, D) -> (1, H, N, D)
        scale = score_scale(self._config, layer)
        out = torch.zeros_like(heads[0], dtype=torch.float32)  # (N, H, D)
        for span in torch.unbind(self._span_slots.unsqueeze(1)):
            is_own = self._slots == span  # (N); other queries see the first position alone
            last = self._positions.masked_fill(~is_own, 0).view(1, 1, -1)  # (N) -> (1, 1, N)
            keys, values = _slots(self._cache, layer, span)  # (1, H, T, D)
            found = _attend(queries, keys, values, last, scale)[0].transpose(0, 1)  # (N, H, D)
            out = torch.where(is_own.view(-1, 1, 1), found, out)
        return out.flatten(1)  # (N, H, D) -> (N, C)


def _heads(config: GPTConfig, *rows: Tensor) -> list[Tensor]:
    """(N, C) -> (N, H, D), each."""
    return [x.reshape(-1, config.num_heads, config.head_len) for x in rows]


def _write(
    cache: SlotCache, layer: int, slots: Tensor, positions: Tensor, key: Tensor, value: Tensor
) -> None:
    """Store ``key`` and ``value`` (N, H, D). Around a slice, indices move to the front."""
    cache.keys[layer, ..., 0][slots, :, positions] = key.to(cache.dtype)
    cache.values[layer][slots, :, positions] = value.to(cache.dtype)


def _slots(cache: SlotCache, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (B, H, T, D) of ``slots`` (B), float32."""
    keys = cache.keys[layer, ..., 0].index_select(0, slots)
    return keys.float(), cache.values[layer].index_select(0, slots).float()


def _attend(query: Tensor, keys: Tensor, values: Tensor, last: Tensor, scale: float) -> Tensor:
    """query (B, H, N, D), keys and values (B, H, T, D) -> (B, H, N, D), float32.

    ``last`` (B, 1, N) is the last position that each query sees; what lies beyond may be NaN
    where no query of the slot sees it. A query's bits depend neither on N nor on B.
    """
    num_queries, num_keys = query.shape[2], keys.shape[2]
    missing = max(MIN_QUERIES - num_queries, 0)
    query = F.pad(query.float() * scale, (0, 0, 0, missing))
    places = torch.arange(num_keys, device=query.device)
    is_hidden = places > F.pad(last, (0, missing)).unsqueeze(-1)  # (B, 1, N, T)
    scores = (query @ keys.transpose(2, 3)).masked_fill(is_hidden, float("-inf"))  # (B, H, N, T)
    is_unread = is_hidden.all(2).unsqueeze(-1)  # (B, 1, T, 1)
    values = values.masked_fill(is_unread, 0.0)  # zero weights do not hide NaN
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    total = torch.zeros_like(weights[..., :1])
    out = torch.zeros_like(query)
    for start in range(0, num_keys, KEY_TILE):
        tile = slice(start, start + KEY_TILE)
        total = total + weights[..., tile].sum(-1, keepdim=True)
        out = out + weights[..., tile] @ values[:, :, tile]
    return (out / total)[:, :, :num_queries]
