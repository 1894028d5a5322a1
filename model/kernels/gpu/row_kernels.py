"""Kernels that go over rows: embedding, norm, and what follows a product of the matrix library.

Tensors are contiguous; shapes use the alphabet of model/__init__.py. ``num_rows`` is never
specialised: one row and many run the same code, so their bits are the same.
"""

import triton
import triton.language as tl


@triton.jit
def residual_tile(
    stream,
    partials,
    rows,
    channels,
    num_rows,
    NUM_CHANNELS: tl.constexpr,
    NUM_PARTIALS: tl.constexpr,
):
    """The stream and its partials (P, N, C), added up in order, for ``rows`` by ``channels``."""
    mask = (rows < num_rows)[:, None] & (channels < NUM_CHANNELS)[None, :]
    offsets = rows[:, None] * NUM_CHANNELS + channels[None, :]
    x = tl.load(stream + offsets, mask=mask, other=0.0)
    for partial in tl.static_range(NUM_PARTIALS):
        added = tl.load(
            partials + partial * num_rows * NUM_CHANNELS + offsets, mask=mask, other=0.0
        )
        x += added.to(tl.float32)
    return x


@triton.jit
def row_stats(
    stream,
    partials,
    target,
    rows,
    num_written,
    num_rows,
    epsilon,
    NUM_CHANNELS: tl.constexpr,
    NUM_PARTIALS: tl.constexpr,
    NORM_TILE: tl.constexpr,
):
    """Mean and inverse deviation of each row, by tiles (Chan, Golub and LeVeque 1979).

    The sums of stream and partials of the first ``num_written`` rows go to ``target``.
    """
    mean = tl.zeros(rows.shape, tl.float32)
    squares = tl.zeros(rows.shape, tl.float32)
    for start in range(0, NUM_CHANNELS, NORM_TILE):
        channels = start + tl.arange(0, NORM_TILE)
        x = residual_tile(stream, partials, rows, channels, num_rows, NUM_CHANNELS, NUM_PARTIALS)
        is_inside = channels < NUM_CHANNELS
        if NUM_PARTIALS > 0:
            mask = (rows < num_written)[:, None] & is_inside[None, :]
            tl.store(target + rows[:, None] * NUM_CHANNELS + channels[None, :], x, mask=mask)
        count = tl.minimum(NUM_CHANNELS - start, NORM_TILE).to(tl.float32)
        before = start * 1.0
        tile_mean = tl.sum(x, axis=1) / count
        centred = tl.where(is_inside[None, :], x - tile_mean[:, None], 0.0)
        delta = tile_mean - mean
        mean += delta * (count / (before + count))
        squares += tl.sum(centred * centred, axis=1)
        squares += delta * delta * (before * count / (before + count))
    return mean, tl.rsqrt(squares / NUM_CHANNELS + epsilon)


@triton.jit
def normed_tile(x, mean, scale, gain, bias, channels, NUM_CHANNELS: tl.constexpr):
    """``x`` normalised; exactly 0 beyond the channels."""
    is_inside = channels < NUM_CHANNELS
    gains = tl.load(gain + channels, mask=is_inside, other=0.0)
    biases = tl.load(bias + channels, mask=is_inside, other=0.0)
    return (x - mean[:, None]) * scale[:, None] * gains[None, :] + biases[None, :]


@triton.jit
def embed_kernel(ids, positions, wte, wpe, stream, NUM_CHANNELS: tl.constexpr, TILE: tl.constexpr):
    """Token and position embedding, (N, C) float32. Grid: (N, tiles of channels)."""
    row = tl.program_id(0)
    channels = tl.program_id(1) * TILE + tl.arange(0, TILE)
    mask = channels < NUM_CHANNELS
    token_id = tl.load(ids + row)
    position = tl.load(positions + row)
    token = tl.load(wte + token_id * NUM_CHANNELS + channels, mask=mask).to(tl.float32)
    place = tl.load(wpe + position * NUM_CHANNELS + channels, mask=mask).to(tl.float32)
    tl.store(stream + row * NUM_CHANNELS + channels, token + place, mask=mask)


@triton.jit(do_not_specialize=["num_rows"])
def norm_kernel(
    stream,
    partials,
    target,
    gain,
    bias,
    index,
    normed,
    num_rows,
    epsilon,
    NUM_CHANNELS: tl.constexpr,
    NUM_PARTIALS: tl.constexpr,
    HAS_INDEX: tl.constexpr,
    NORM_TILE: tl.constexpr,
):
    """Adds up the residual stream of a row and normalises it. Grid: (rows)."""
    line = tl.program_id(0)
    row = line
    if HAS_INDEX:
        row = tl.load(index + line)
    rows = row + tl.arange(0, 1)
    mean, scale = row_stats(
        stream, partials, target, rows, num_rows, num_rows, epsilon,
        NUM_CHANNELS, NUM_PARTIALS, NORM_TILE,
    )  # fmt: skip
    for start in range(0, NUM_CHANNELS, NORM_TILE):
        channels = start + tl.arange(0, NORM_TILE)
        x = residual_tile(stream, partials, rows, channels, num_rows, NUM_CHANNELS, NUM_PARTIALS)
        out = normed_tile(x, mean, scale, gain, bias, channels, NUM_CHANNELS)
        places = line * NUM_CHANNELS + channels[None, :]
        tl.store(normed + places, out, mask=(channels < NUM_CHANNELS)[None, :])


@triton.jit
def store_qkv(
    x, outputs, rows, row_mask, slots, positions, queries, keys, values,
    num_positions, NUM_HEADS: tl.constexpr, HEAD_LEN: tl.constexpr,
):  # fmt: skip
    """Spread a tile of (N, 3C): queries to (N, C), keys and values to their slots (S, H, T, D)."""
    num_channels: tl.constexpr = NUM_HEADS * HEAD_LEN
    slot = tl.load(slots + rows, mask=row_mask, other=0).to(tl.int64)
    position = tl.load(positions + rows, mask=row_mask, other=0)
    part = outputs // num_channels
    channels = outputs % num_channels
    heads = channels // HEAD_LEN
    lines = (slot[:, None] * NUM_HEADS + heads[None, :]) * num_positions + position[:, None]
    places = lines * HEAD_LEN + (channels % HEAD_LEN)[None, :]
    is_query = row_mask[:, None] & (part == 0)[None, :]
    is_key = row_mask[:, None] & (part == 1)[None, :]
    is_value = row_mask[:, None] & (part == 2)[None, :]
    tl.store(queries + rows[:, None] * num_channels + channels[None, :], x, mask=is_query)
    tl.store(keys + places, x, mask=is_key)
    tl.store(values + places, x, mask=is_value)


@triton.jit(do_not_specialize=["num_rows"])
def scatter_kernel(
    wide, slots, positions, queries, keys, values, num_rows, num_positions,
    NUM_HEADS: tl.constexpr, HEAD_LEN: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """A finished (N, 3C) to queries and cache. Grid: (N, tiles of 3C)."""
    rows = tl.program_id(0) + tl.arange(0, 1)
    outputs = tl.program_id(1) * TILE + tl.arange(0, TILE)
    num_outputs: tl.constexpr = 3 * NUM_HEADS * HEAD_LEN
    mask = (outputs < num_outputs)[None, :]
    x = tl.load(wide + rows[:, None] * num_outputs + outputs[None, :], mask=mask, other=0.0)
    store_qkv(
        x.to(tl.float32), outputs, rows, rows < num_rows, slots, positions, queries, keys, values,
        num_positions, NUM_HEADS, HEAD_LEN,
    )  # fmt: skip


@triton.jit
def hyperbolic_tangent(x):
    """tanh by one exponential that cannot overflow."""
    small = tl.exp(-2.0 * tl.abs(x))
    size = (1.0 - small) / (1.0 + small)
    return tl.where(x < 0.0, -size, size)


@triton.jit
def logistic(x):
    """1 / (1 + exp(-x)) by one exponential that cannot overflow."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x < 0.0, small, 1.0) / (1.0 + small)


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """The activations of model.config, in float32."""
    if ACTIVATION == "gelu_tanh":
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        x = 0.5 * x * (1.0 + hyperbolic_tangent(inner))
    elif ACTIVATION == "gelu_erf":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACTIVATION == "relu":
        x = tl.maximum(x, 0.0)
    elif ACTIVATION == "silu":
        x = x * logistic(x)
    else:
        tl.static_assert(ACTIVATION == "tanh")
        x = hyperbolic_tangent(x)
    return x


@triton.jit(do_not_specialize=["count"])
def activate_kernel(wide, count, ACTIVATION: tl.constexpr, TILE: tl.constexpr):
    """In place, over ``count`` numbers. Grid: (tiles)."""
    places = tl.program_id(0) * TILE + tl.arange(0, TILE)
    x = tl.load(wide + places, mask=places < count, other=0.0).to(tl.float32)
    tl.store(wide + places, activate(x, ACTIVATION), mask=places < count)
