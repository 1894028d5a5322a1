"""Products with a weight (M, K), and what stands before and after them in a layer.

A program computes 16 rows by a tile of outputs. The tiles along the inputs depend on the weight
alone and their sums run in order, so a row's bits do not depend on how many rows there are.
Float32 weights are multiplied in IEEE arithmetic, not in tf32.
"""

import triton
import triton.language as tl

from model.kernels.gpu.row_kernels import (
    activate,
    normed_tile,
    residual_tile,
    row_stats,
    store_qkv,
)

IS_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def multiply_add(a, b, total):
    """``total`` + ``a`` by ``b``, summed in float32.

    Triton's interpreter multiplies the whole numbers that stand for bfloat16, so there both are
    widened first, which is exact.
    """
    if IS_INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def weight_tile(weight, outputs, inputs, NUM_OUTPUTS: tl.constexpr, NUM_INPUTS: tl.constexpr):
    """(K, M) piece of a weight that lies as (M, K)."""
    mask = (inputs < NUM_INPUTS)[:, None] & (outputs < NUM_OUTPUTS)[None, :]
    return tl.load(weight + outputs[None, :] * NUM_INPUTS + inputs[:, None], mask=mask, other=0.0)


@triton.jit
def row_product(
    x, weight, rows, outputs, first, num_rows,
    NUM_OUTPUTS: tl.constexpr, NUM_INPUTS: tl.constexpr, SPLIT_LEN: tl.constexpr,
    INPUT_TILE: tl.constexpr,
):  # fmt: skip
    """Rows of ``x`` (N, K) times a tile of the weight, over SPLIT_LEN inputs from ``first`` on."""
    total = tl.zeros((rows.shape[0], outputs.shape[0]), tl.float32)
    for start in range(0, SPLIT_LEN, INPUT_TILE):
        inputs = first + start + tl.arange(0, INPUT_TILE)
        mask = (rows < num_rows)[:, None] & (inputs < NUM_INPUTS)[None, :]
        a = tl.load(x + rows[:, None] * NUM_INPUTS + inputs[None, :], mask=mask, other=0.0)
        w = weight_tile(weight, outputs, inputs, NUM_OUTPUTS, NUM_INPUTS)
        total = multiply_add(a.to(w.dtype), w, total)
    return total


@triton.jit
def normed_product(
    stream, partials, target, gain, shift, weight, bias, rows, outputs, num_written, num_rows,
    epsilon, NUM_OUTPUTS: tl.constexpr, NUM_CHANNELS: tl.constexpr, NUM_PARTIALS: tl.constexpr,
    INPUT_TILE: tl.constexpr, NORM_TILE: tl.constexpr,
):  # fmt: skip
    """Layer norm of the residual stream, times a tile of the weight, plus bias."""
    mean, scale = row_stats(
        stream, partials, target, rows, num_written, num_rows, epsilon,
        NUM_CHANNELS, NUM_PARTIALS, NORM_TILE,
    )  # fmt: skip
    total = tl.zeros((rows.shape[0], outputs.shape[0]), tl.float32)
    for start in range(0, NUM_CHANNELS, INPUT_TILE):
        channels = start + tl.arange(0, INPUT_TILE)
        x = residual_tile(stream, partials, rows, channels, num_rows, NUM_CHANNELS, NUM_PARTIALS)
        a = normed_tile(x, mean, scale, gain, shift, channels, NUM_CHANNELS)
        w = weight_tile(weight, outputs, channels, NUM_OUTPUTS, NUM_CHANNELS)
        total = multiply_add(a.to(w.dtype), w, total)
    return total + tl.load(bias + outputs, mask=outputs < NUM_OUTPUTS, other=0.0)[None, :]


@triton.jit(do_not_specialize=["num_rows"])
def norm_qkv_kernel(
    stream, partials, target, gain, shift, weight, bias, slots, positions, queries, keys, values,
    num_rows, num_positions, epsilon, NUM_HEADS: tl.constexpr, HEAD_LEN: tl.constexpr,
    NUM_PARTIALS: tl.constexpr, ROW_TILE: tl.constexpr, OUTPUT_TILE: tl.constexpr,
    INPUT_TILE: tl.constexpr, NORM_TILE: tl.constexpr,
):  # fmt: skip
    """Norm, product and bias; the keys and values go to the cache. Grid: (row tiles, outputs)."""
    num_channels: tl.constexpr = NUM_HEADS * HEAD_LEN
    rows = tl.program_id(0) * ROW_TILE + tl.arange(0, ROW_TILE)
    outputs = tl.program_id(1) * OUTPUT_TILE + tl.arange(0, OUTPUT_TILE)
    num_written = tl.where(tl.program_id(1) == 0, num_rows, 0)
    x = normed_product(
        stream, partials, target, gain, shift, weight, bias, rows, outputs,
        num_written, num_rows, epsilon, 3 * num_channels, num_channels, NUM_PARTIALS,
        INPUT_TILE, NORM_TILE,
    )  # fmt: skip
    store_qkv(
        x, outputs, rows, rows < num_rows, slots, positions, queries, keys, values,
        num_positions, NUM_HEADS, HEAD_LEN,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_rows"])
def norm_activation_kernel(
    stream, partials, target, gain, shift, weight, bias, out, num_rows, epsilon,
    NUM_OUTPUTS: tl.constexpr, NUM_CHANNELS: tl.constexpr, NUM_PARTIALS: tl.constexpr,
    ACTIVATION: tl.constexpr, ROW_TILE: tl.constexpr, OUTPUT_TILE: tl.constexpr,
    INPUT_TILE: tl.constexpr, NORM_TILE: tl.constexpr,
):  # fmt: skip
    """Norm, product, bias and activation, (N, inner). Grid: (row tiles, outputs)."""
    rows = tl.program_id(0) * ROW_TILE + tl.arange(0, ROW_TILE)
    outputs = tl.program_id(1) * OUTPUT_TILE + tl.arange(0, OUTPUT_TILE)
    num_written = tl.where(tl.program_id(1) == 0, num_rows, 0)
    x = normed_product(
        stream, partials, target, gain, shift, weight, bias, rows, outputs,
        num_written, num_rows, epsilon, NUM_OUTPUTS, NUM_CHANNELS, NUM_PARTIALS,
        INPUT_TILE, NORM_TILE,
    )  # fmt: skip
    mask = (rows < num_rows)[:, None] & (outputs < NUM_OUTPUTS)[None, :]
    tl.store(
        out + rows[:, None] * NUM_OUTPUTS + outputs[None, :], activate(x, ACTIVATION), mask=mask
    )


@triton.jit(do_not_specialize=["num_rows"])
def split_product_kernel(
    x, weight, bias, partials, num_rows, NUM_OUTPUTS: tl.constexpr, NUM_INPUTS: tl.constexpr,
    SPLIT_LEN: tl.constexpr, HAS_BIAS: tl.constexpr, ROW_TILE: tl.constexpr,
    OUTPUT_TILE: tl.constexpr, INPUT_TILE: tl.constexpr,
):  # fmt: skip
    """Partial sums (P, N, M), the bias in the first. Grid: (row tiles, outputs, splits).

    Row tiles lie next to each other in the grid, so that a piece of a weight is read once from
    memory and then from the cache.
    """
    split = tl.program_id(2)
    rows = tl.program_id(0) * ROW_TILE + tl.arange(0, ROW_TILE)
    outputs = tl.program_id(1) * OUTPUT_TILE + tl.arange(0, OUTPUT_TILE)
    total = row_product(
        x, weight, rows, outputs, split * SPLIT_LEN, num_rows,
        NUM_OUTPUTS, NUM_INPUTS, SPLIT_LEN, INPUT_TILE,
    )  # fmt: skip
    if HAS_BIAS:
        num_biases = tl.where(split == 0, NUM_OUTPUTS, 0)
        total += tl.load(bias + outputs, mask=outputs < num_biases, other=0.0)[None, :]
    mask = (rows < num_rows)[:, None] & (outputs < NUM_OUTPUTS)[None, :]
    lines = (split * num_rows + rows).to(tl.int64)
    tl.store(partials + lines[:, None] * NUM_OUTPUTS + outputs[None, :], total, mask=mask)
