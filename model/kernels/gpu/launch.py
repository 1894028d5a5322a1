"""The operations by Triton kernels. Grids depend on shapes alone: a CUDA graph can capture them."""

from __future__ import annotations

import triton
from torch import Tensor

from model.config import Activation
from model.kernels.gpu import attention_kernels, head_kernels, product_kernels, row_kernels
from model.kernels.gpu.buffers import (
    Chosen,
    Draws,
    Filters,
    LayerCache,
    Linear,
    Norm,
    QueryTiles,
    Residual,
    Rows,
    SplitScratch,
    TileBest,
)
from model.kernels.gpu.sampling_kernels import sampling_kernel
from model.kernels.gpu.tiles import (
    KEY_SPLIT,
    KEY_TILE,
    NORM_TILE,
    QUERY_TILE,
    ROW_TILE,
    VOCAB_TILE,
    WIDE_OUTPUT_TILE,
    WIDE_ROW_TILE,
    power_of_two,
    product_tiles,
    whole_product_tiles,
)

FLAT_TILE = 512
"""Numbers of a program that only maps."""

LIST_TILE = 32
"""Biases, banned ids and tokens of a history that sampling looks at together."""

LEAST_DOT = 16
"""The shortest side of a product of tiles."""


def embed(rows: Rows, wte: Tensor, wpe: Tensor, stream: Tensor) -> None:
    """See Operations."""
    num_rows, num_channels = stream.shape
    row_kernels.embed_kernel[(num_rows, triton.cdiv(num_channels, FLAT_TILE))](
        rows.ids, rows.positions, wte, wpe, stream, NUM_CHANNELS=num_channels, TILE=FLAT_TILE,
    )  # fmt: skip


def norm(residual: Residual, target: Tensor, norm: Norm, index: Tensor | None, out: Tensor) -> None:
    """See Operations."""
    num_rows, num_channels = residual.stream.shape
    row_kernels.norm_kernel[(len(out),)](
        residual.stream, residual.partials, target, norm.gain, norm.bias,
        target if index is None else index, out, num_rows, norm.epsilon,
        NUM_CHANNELS=num_channels, NUM_PARTIALS=len(residual.partials),
        HAS_INDEX=index is not None, NORM_TILE=NORM_TILE,
    )  # fmt: skip


def norm_qkv(
    residual: Residual,
    target: Tensor,
    norm: Norm,
    linear: Linear,
    rows: Rows,
    queries: Tensor,
    cache: LayerCache,
) -> None:
    """See Operations."""
    num_rows = len(queries)
    _, num_heads, num_positions, head_len = cache.keys.shape
    num_outputs, num_inputs = linear.weight.shape
    tiles = whole_product_tiles(num_outputs, num_inputs, linear.weight.dtype)
    grid = (triton.cdiv(num_rows, ROW_TILE), triton.cdiv(num_outputs, tiles.num_outputs))
    product_kernels.norm_qkv_kernel[grid](
        residual.stream, residual.partials, target, norm.gain, norm.bias, linear.weight,
        linear.bias, rows.slots, rows.positions, queries, cache.keys, cache.values, num_rows,
        num_positions, norm.epsilon, NUM_HEADS=num_heads, HEAD_LEN=head_len,
        NUM_PARTIALS=len(residual.partials), ROW_TILE=ROW_TILE, OUTPUT_TILE=tiles.num_outputs,
        INPUT_TILE=tiles.num_inputs, NORM_TILE=NORM_TILE,
    )  # fmt: skip


def norm_activation(
    residual: Residual,
    target: Tensor,
    norm: Norm,
    linear: Linear,
    activation: Activation,
    out: Tensor,
) -> None:
    """See Operations."""
    num_outputs, num_inputs = linear.weight.shape
    tiles = whole_product_tiles(num_outputs, num_inputs, linear.weight.dtype)
    grid = (triton.cdiv(len(out), ROW_TILE), triton.cdiv(num_outputs, tiles.num_outputs))
    product_kernels.norm_activation_kernel[grid](
        residual.stream, residual.partials, target, norm.gain, norm.bias, linear.weight,
        linear.bias, out, len(out), norm.epsilon, NUM_OUTPUTS=num_outputs,
        NUM_CHANNELS=num_inputs, NUM_PARTIALS=len(residual.partials), ACTIVATION=activation,
        ROW_TILE=ROW_TILE, OUTPUT_TILE=tiles.num_outputs, INPUT_TILE=tiles.num_inputs,
        NORM_TILE=NORM_TILE,
    )  # fmt: skip


def split_product(x: Tensor, linear: Linear, partials: Tensor) -> None:
    """See Operations."""
    num_outputs, num_inputs = linear.weight.shape
    tiles = product_tiles(num_outputs, num_inputs, linear.weight.dtype)
    grid = (
        triton.cdiv(len(x), ROW_TILE),
        triton.cdiv(num_outputs, tiles.num_outputs),
        tiles.num_splits,
    )
    product_kernels.split_product_kernel[grid](
        x, linear.weight, linear.bias, partials, len(x), NUM_OUTPUTS=num_outputs,
        NUM_INPUTS=num_inputs, SPLIT_LEN=tiles.split_len, HAS_BIAS=True, ROW_TILE=ROW_TILE,
        OUTPUT_TILE=tiles.num_outputs, INPUT_TILE=tiles.num_inputs,
    )  # fmt: skip


def product(x: Tensor, linear: Linear, out: Tensor) -> None:
    """See Operations."""
    num_outputs, num_inputs = linear.weight.shape
    tiles = whole_product_tiles(num_outputs, num_inputs, linear.weight.dtype)
    grid = (triton.cdiv(len(x), WIDE_ROW_TILE), triton.cdiv(num_outputs, WIDE_OUTPUT_TILE), 1)
    product_kernels.split_product_kernel[grid](
        x, linear.weight, linear.bias, out, len(x), NUM_OUTPUTS=num_outputs,
        NUM_INPUTS=num_inputs, SPLIT_LEN=num_inputs, HAS_BIAS=True, ROW_TILE=WIDE_ROW_TILE,
        OUTPUT_TILE=WIDE_OUTPUT_TILE, INPUT_TILE=tiles.num_inputs,
    )  # fmt: skip


def scatter(wide: Tensor, rows: Rows, queries: Tensor, cache: LayerCache) -> None:
    """See Operations."""
    num_rows, num_outputs = wide.shape
    _, num_heads, num_positions, head_len = cache.keys.shape
    row_kernels.scatter_kernel[(num_rows, triton.cdiv(num_outputs, FLAT_TILE))](
        wide, rows.slots, rows.positions, queries, cache.keys, cache.values, num_rows,
        num_positions, NUM_HEADS=num_heads, HEAD_LEN=head_len, TILE=FLAT_TILE,
    )  # fmt: skip


def activate(wide: Tensor, activation: Activation) -> None:
    """See Operations."""
    count = wide.numel()
    row_kernels.activate_kernel[(triton.cdiv(count, FLAT_TILE),)](
        wide, count, ACTIVATION=activation, TILE=FLAT_TILE
    )


def decode_attention(
    queries: Tensor,
    cache: LayerCache,
    rows: Rows,
    scale: float,
    splits: SplitScratch,
    out: Tensor,
) -> None:
    """See Operations."""
    _, num_heads, num_positions, head_len = cache.keys.shape
    num_splits = splits.sums.shape[2]
    head_tile = power_of_two(head_len)
    attention_kernels.decode_attention_kernel[(num_splits, num_heads, len(queries))](
        queries, cache.keys, cache.values, rows.slots, rows.positions, splits.sums, splits.stats,
        scale, num_positions, num_splits, NUM_HEADS=num_heads, HEAD_LEN=head_len,
        HEAD_TILE=head_tile, KEY_SPLIT=KEY_SPLIT,
    )  # fmt: skip
    attention_kernels.combine_kernel[(num_heads, len(queries))](
        rows.positions, splits.sums, splits.stats, out, num_splits, NUM_HEADS=num_heads,
        HEAD_LEN=head_len, HEAD_TILE=head_tile, KEY_SPLIT=KEY_SPLIT, num_warps=1,
    )  # fmt: skip


def prefill_attention(
    queries: Tensor, cache: LayerCache, tiles: QueryTiles, scale: float, out: Tensor
) -> None:
    """See Operations."""
    _, num_heads, num_positions, head_len = cache.keys.shape
    attention_kernels.prefill_attention_kernel[(len(tiles.table), num_heads)](
        queries, cache.keys, cache.values, tiles.table, out, scale, num_positions,
        NUM_HEADS=num_heads, HEAD_LEN=head_len, HEAD_TILE=power_of_two(head_len, LEAST_DOT),
        QUERY_TILE=QUERY_TILE, KEY_TILE=KEY_TILE,
    )  # fmt: skip


def logits(hidden: Tensor, weight: Tensor, out: Tensor, row_tile: int) -> None:
    """See Operations."""
    vocab_size, num_channels = weight.shape
    tiles = whole_product_tiles(vocab_size, num_channels, weight.dtype)
    grid = (triton.cdiv(len(hidden), row_tile), triton.cdiv(vocab_size, tiles.num_outputs), 1)
    product_kernels.split_product_kernel[grid](
        hidden, weight, hidden, out, len(hidden), NUM_OUTPUTS=vocab_size,
        NUM_INPUTS=num_channels, SPLIT_LEN=num_channels, HAS_BIAS=False, ROW_TILE=row_tile,
        OUTPUT_TILE=tiles.num_outputs, INPUT_TILE=tiles.num_inputs,
    )  # fmt: skip


def head_draw(
    hidden: Tensor, weight: Tensor, draws: Draws, best: TileBest, out: Tensor, row_tile: int
) -> None:
    """See Operations."""
    vocab_size, num_channels = weight.shape
    tiles = whole_product_tiles(vocab_size, num_channels, weight.dtype)
    num_tiles = best.values.shape[1]
    head_kernels.head_draw_kernel[(triton.cdiv(len(hidden), row_tile), num_tiles)](
        hidden, weight, draws.temperatures, draws.seeds, draws.choice_indices,
        draws.token_indices, best.values, best.ids, len(hidden), VOCAB_SIZE=vocab_size,
        NUM_CHANNELS=num_channels, ROW_TILE=row_tile, OUTPUT_TILE=tiles.num_outputs,
        INPUT_TILE=tiles.num_inputs,
    )  # fmt: skip
    head_kernels.tile_best_kernel[(len(hidden),)](
        best.values, best.ids, out, NUM_TILES=num_tiles, WIDTH=power_of_two(num_tiles)
    )


def sample(logits: Tensor, draws: Draws, filters: Filters, chosen: Chosen) -> None:
    """See Operations."""
    num_rows, vocab_size = logits.shape
    sampling_kernel[(num_rows,)](
        logits, chosen.scratch, draws.temperatures, draws.seeds, draws.choice_indices,
        draws.token_indices, filters.top_k, filters.top_p, filters.min_p, filters.repetition,
        filters.presence, filters.frequency, filters.history, filters.slots,
        filters.prompt_lens, filters.lens, filters.bias_ids, filters.biases, filters.banned_ids,
        filters.num_top, chosen.ids, chosen.logprobs, chosen.top_ids, chosen.top_logprobs,
        vocab_size, chosen.scratch.shape[1], filters.bias_ids.shape[1],
        filters.banned_ids.shape[1], filters.history.shape[1], chosen.top_ids.shape[1],
        ID_BITS=max(1, (vocab_size - 1).bit_length()),
        VOCAB_TILE=min(VOCAB_TILE, power_of_two(vocab_size)), TILE=LIST_TILE, num_warps=16,
    )  # fmt: skip
