"""What the kernels read and write: frozen dataclasses of tensors at fixed addresses.

Whoever captures a graph allocates these once; contents change between replays, addresses never.
Shapes use the alphabet of model/__init__.py; N is B in a decode step. Float tensors are float32
unless a weight's dtype is named, and tensors are contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import GPTConfig
from model.kernels.gpu.tiles import (
    KEY_SPLIT,
    VOCAB_TILE,
    product_tiles,
    whole_product_tiles,
)


@dataclass(frozen=True, slots=True)
class Rows:
    """The tokens of one launch: ids, slots and positions, (N) int32 each.

    A padding row names a slot that is nobody's, position 0 and any id of the vocabulary.
    """

    ids: Tensor
    slots: Tensor
    positions: Tensor


@dataclass(frozen=True, slots=True)
class QueryTiles:
    """Prefill queries in tiles: (tiles, 4) int32 of slot, first row, first position, length.

    The queries of a tile are of one span and stand between two multiples of QUERY_TILE. A length of
    0 is padding.
    """

    table: Tensor


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer norm: gain and bias (C)."""

    gain: Tensor
    bias: Tensor
    epsilon: float


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer: weight (M, K) of the model's dtype, bias (M) float32.

    ``rounded_bias`` is the bias in the weight's dtype, as the matrix library wants it.
    """

    weight: Tensor
    bias: Tensor
    rounded_bias: Tensor


@dataclass(frozen=True, slots=True)
class Residual:
    """The residual stream (N, C) and what is still to be added to it, (P, N, C).

    A product of a layer leaves its P partial sums; whoever reads the stream next adds them up in
    order and writes the new stream to another buffer.
    """

    stream: Tensor
    partials: Tensor


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer of a SlotCache with a tile of 1: keys and values (S, H, T, D)."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class SplitScratch:
    """Decode attention's partial results: (B, H, P, D), and their maxima and sums (B, H, P, 2)."""

    sums: Tensor
    stats: Tensor


@dataclass(frozen=True, slots=True)
class Workspace:
    """Everything between a layer's operations, for at most N rows.

    ``streams`` (2, N, C) take turns; ``normed`` (N, C), ``wide`` (N, max(3C, inner)) and
    ``attended`` (N, C) have the weights' dtype; ``queries`` and ``hidden`` (N, C) are float32.
    ``partials`` is room for the (P, N, C) float32 of our own products, ``added`` (1, N, C) in the
    weights' dtype for those of the matrix library. ``splits`` is for decode.
    """

    streams: Tensor
    partials: Tensor
    added: Tensor
    normed: Tensor
    wide: Tensor
    queries: Tensor
    attended: Tensor
    hidden: Tensor
    splits: SplitScratch

    @classmethod
    def allocate(
        cls,
        config: GPTConfig,
        num_rows: int,
        num_positions: int,
        dtype: torch.dtype,
        device: torch.device | str,
        *,
        is_decode: bool = True,
    ) -> Workspace:
        """Buffers for ``num_rows`` rows over slots of ``num_positions``."""

        def floats(*shape: int) -> Tensor:
            return torch.empty(shape, device=device)

        def rounded(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        channels, heads = config.num_channels, config.num_heads
        num_splits = -(-num_positions // KEY_SPLIT)
        decode_rows = num_rows if is_decode else 0
        num_partials = max(
            product_tiles(channels, num_inputs, dtype).num_splits
            for num_inputs in (channels, config.num_inner)
        )
        return cls(
            streams=floats(2, num_rows, channels),
            partials=floats(num_partials * num_rows * channels),
            added=rounded(1, num_rows, channels),
            normed=rounded(num_rows, channels),
            wide=rounded(num_rows, max(3 * channels, config.num_inner)),
            queries=floats(num_rows, channels),
            attended=rounded(num_rows, channels),
            hidden=floats(num_rows, channels),
            splits=SplitScratch(
                floats(decode_rows, heads, num_splits, config.head_len),
                floats(decode_rows, heads, num_splits, 2),
            ),
        )


@dataclass(frozen=True, slots=True)
class Draws:
    """What the noise of each row is made of, (B) each: all that a row without filters needs.

    ``temperatures`` float32, 0 for greedy; ``seeds`` int64 holding 64 bits; ``choice_indices`` and
    ``token_indices`` int32.
    """

    temperatures: Tensor
    seeds: Tensor
    choice_indices: Tensor
    token_indices: Tensor


@dataclass(frozen=True, slots=True)
class TileBest:
    """Each row's best in each tile of the vocabulary: values float32, ids int32, (B, tiles)."""

    values: Tensor
    ids: Tensor

    @classmethod
    def allocate(
        cls, num_rows: int, vocab_size: int, num_inputs: int, dtype: torch.dtype, device: str
    ) -> TileBest:
        """For the head (V, C) of ``dtype``."""
        width = whole_product_tiles(vocab_size, num_inputs, dtype).num_outputs
        shape = (num_rows, -(-vocab_size // width))
        return cls(
            torch.empty(shape, device=device),
            torch.empty(shape, dtype=torch.int32, device=device),
        )


@dataclass(frozen=True, slots=True)
class Filters:
    """What bounds or changes each row's choice, beyond Draws.

    (B): ``top_k`` int32, 0 for none; ``top_p`` and ``min_p`` float64; ``repetition``, ``presence``
    and ``frequency`` penalties; ``prompt_lens`` and ``lens`` int32, tokens of the prompt and in
    all. ``history`` (S, T) int32 holds the tokens of each slot, ``slots`` (B) int32 says whose.
    ``bias_ids`` (B, E) int32 and ``biases`` (B, E), ``banned_ids`` (B, F) int32: -1 where there is
    none; no id stands twice in a row. ``num_top`` (B) int32: likeliest tokens asked for.
    """

    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    repetition: Tensor
    presence: Tensor
    frequency: Tensor
    history: Tensor
    slots: Tensor
    prompt_lens: Tensor
    lens: Tensor
    bias_ids: Tensor
    biases: Tensor
    banned_ids: Tensor
    num_top: Tensor


@dataclass(frozen=True, slots=True)
class Chosen:
    """What sampling leaves: ids (B) int32, raw log probabilities (B); the likeliest, (B, K).

    ``top_ids`` int32 and ``top_logprobs`` are valid up to a row's ``num_top``. ``scratch`` (B, V)
    holds the changed logits.
    """

    ids: Tensor
    logprobs: Tensor
    top_ids: Tensor
    top_logprobs: Tensor
    scratch: Tensor

    @classmethod
    def allocate(
        cls, num_rows: int, vocab_size: int, num_top: int, device: torch.device | str
    ) -> Chosen:
        """For ``num_rows`` rows and at most ``num_top`` likeliest tokens."""
        width = -(-vocab_size // VOCAB_TILE) * VOCAB_TILE
        return cls(
            torch.empty(num_rows, dtype=torch.int32, device=device),
            torch.empty(num_rows, device=device),
            torch.empty((num_rows, num_top), dtype=torch.int32, device=device),
            torch.empty((num_rows, num_top), device=device),
            torch.empty((num_rows, width), device=device),
        )
