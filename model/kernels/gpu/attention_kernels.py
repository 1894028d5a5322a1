"""Attention over slots in place: decode by fixed splits of the keys, prefill by query tiles.

Keys and values are one layer's (S, H, T, D). What lies beyond a row's length is never loaded, so
NaN there reaches nothing. Where a tile of keys begins depends on its position alone, and tiles are
added up in order, so a query's bits depend on neither neighbours, bucket, slot nor chunk.
"""

import triton
import triton.language as tl

from model.kernels.gpu.product_kernels import multiply_add


@triton.jit
def decode_attention_kernel(
    queries, keys, values, slots, positions, sums, stats, scale, num_positions, num_splits,
    NUM_HEADS: tl.constexpr, HEAD_LEN: tl.constexpr, HEAD_TILE: tl.constexpr,
    KEY_SPLIT: tl.constexpr,
):  # fmt: skip
    """One split of the keys for one head of one row. Grid: (splits, H, B).

    Leaves the weighted sum of values relative to the split's largest score, that score and the
    sum of weights. A split beyond the row's length leaves nothing.
    """
    split = tl.program_id(0)
    head = tl.program_id(1)
    row = tl.program_id(2)
    length = tl.load(positions + row) + 1
    if split * KEY_SPLIT < length:
        slot = tl.load(slots + row).to(tl.int64)
        places = split * KEY_SPLIT + tl.arange(0, KEY_SPLIT)
        channels = tl.arange(0, HEAD_TILE)
        is_inside = channels < HEAD_LEN
        base = (slot * NUM_HEADS + head) * num_positions * HEAD_LEN
        offsets = places[:, None] * HEAD_LEN + channels[None, :]
        mask = (places < length)[:, None] & is_inside[None, :]
        k = tl.load(keys + base + offsets, mask=mask, other=0.0).to(tl.float32)
        v = tl.load(values + base + offsets, mask=mask, other=0.0).to(tl.float32)
        q = tl.load(
            queries + (row * NUM_HEADS + head) * HEAD_LEN + channels, mask=is_inside, other=0.0
        )
        scores = tl.sum(k * (q * scale)[None, :], axis=1)
        scores = tl.where(places < length, scores, float("-inf"))
        largest = tl.max(scores, axis=0)
        weights = tl.exp(scores - largest)
        line = (row * NUM_HEADS + head) * num_splits + split
        tl.store(
            sums + line * HEAD_LEN + channels, tl.sum(weights[:, None] * v, axis=0), mask=is_inside
        )
        tl.store(stats + line * 2, largest)
        tl.store(stats + line * 2 + 1, tl.sum(weights, axis=0))


@triton.jit
def combine_kernel(
    positions, sums, stats, out, num_splits, NUM_HEADS: tl.constexpr, HEAD_LEN: tl.constexpr,
    HEAD_TILE: tl.constexpr, KEY_SPLIT: tl.constexpr,
):  # fmt: skip
    """The splits of a row and head, from the first to the last of its own. Grid: (H, B)."""
    head = tl.program_id(0)
    row = tl.program_id(1)
    channels = tl.arange(0, HEAD_TILE)
    is_inside = channels < HEAD_LEN
    first = (row * NUM_HEADS + head) * num_splits
    largest = tl.load(stats + first * 2)
    weight = tl.load(stats + first * 2 + 1)
    total = tl.load(sums + first * HEAD_LEN + channels, mask=is_inside, other=0.0)
    for split in range(1, tl.load(positions + row) // KEY_SPLIT + 1):
        line = first + split
        other_largest = tl.load(stats + line * 2)
        new_largest = tl.maximum(largest, other_largest)
        shrink = tl.exp(largest - new_largest)
        other_shrink = tl.exp(other_largest - new_largest)
        other = tl.load(sums + line * HEAD_LEN + channels, mask=is_inside, other=0.0)
        total = total * shrink + other * other_shrink
        weight = weight * shrink + tl.load(stats + line * 2 + 1) * other_shrink
        largest = new_largest
    tl.store(out + (row * NUM_HEADS + head) * HEAD_LEN + channels, total / weight, mask=is_inside)


@triton.jit
def prefill_attention_kernel(
    queries, keys, values, tiles, out, scale, num_positions, NUM_HEADS: tl.constexpr,
    HEAD_LEN: tl.constexpr, HEAD_TILE: tl.constexpr, QUERY_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
):  # fmt: skip
    """A tile of queries of one span, one head. Grid: (tiles, H).

    ``tiles`` (tiles, 4): slot, first row, first position, length. A query's place in its tile
    depends on its position alone, and keys after it have weights of exactly 0, so its sums are the
    same in any chunk.
    """
    tile = tl.program_id(0)
    head = tl.program_id(1)
    length = tl.load(tiles + tile * 4 + 3)
    if length > 0:
        slot = tl.load(tiles + tile * 4).to(tl.int64)
        first = tl.load(tiles + tile * 4 + 2)
        end = first + length
        query_places = first // QUERY_TILE * QUERY_TILE + tl.arange(0, QUERY_TILE)
        rows = tl.load(tiles + tile * 4 + 1) + query_places - first
        channels = tl.arange(0, HEAD_TILE)
        lines = (rows[:, None] * NUM_HEADS + head) * HEAD_LEN + channels[None, :]
        is_query = (query_places >= first) & (query_places < end)
        query_mask = is_query[:, None] & (channels < HEAD_LEN)[None, :]
        q = (tl.load(queries + lines, mask=query_mask, other=0.0) * scale).to(keys.dtype.element_ty)
        base = (slot * NUM_HEADS + head) * num_positions * HEAD_LEN
        largest = tl.full((QUERY_TILE,), float("-inf"), tl.float32)
        weight = tl.zeros((QUERY_TILE,), tl.float32)
        total = tl.zeros((QUERY_TILE, HEAD_TILE), tl.float32)
        for start in range(0, end, KEY_TILE):
            places = start + tl.arange(0, KEY_TILE)
            offsets = places[:, None] * HEAD_LEN + channels[None, :]
            mask = (places < end)[:, None] & (channels < HEAD_LEN)[None, :]
            k = tl.load(keys + base + offsets, mask=mask, other=0.0)
            v = tl.load(values + base + offsets, mask=mask, other=0.0)
            scores = tl.zeros((QUERY_TILE, KEY_TILE), tl.float32)
            scores = multiply_add(q, tl.trans(k), scores)
            is_visible = places[None, :] <= query_places[:, None]
            scores = tl.where(is_visible, scores, float("-inf"))
            new_largest = tl.maximum(largest, tl.max(scores, axis=1))
            weights = tl.exp(scores - new_largest[:, None])
            shrink = tl.exp(largest - new_largest)
            weight = weight * shrink + tl.sum(weights, axis=1)
            total = multiply_add(weights.to(v.dtype), v, total * shrink[:, None])
            largest = new_largest
        tl.store(out + lines, total / weight[:, None], mask=query_mask)
