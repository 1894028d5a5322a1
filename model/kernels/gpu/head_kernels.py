"""The head, the temperature, the noise and the choice in one pass over the vocabulary's weights.

Each program draws the best token of its tile, and a second kernel the best of those, so the
logits need not reach memory. The argmax of logit / temperature + Gumbel noise follows the softmax
(noise.py has the same noise in torch); temperature 0 takes the largest logit. Ties go to the lower
id.
"""

import triton
import triton.language as tl

from model.kernels.gpu.product_kernels import row_product


@triton.jit
def gumbel_noise(token_ids, token_index, choice_index, seed):
    """Noise of noise.py, float32, of the shape that the four broadcast to; ``seed`` is int64."""
    zero = (token_ids + token_index) * 0
    c0 = (token_index + zero).to(tl.uint32)
    c1 = (choice_index + zero).to(tl.uint32)
    c2 = (token_ids + zero).to(tl.uint32)
    c3 = (zero + 1).to(tl.uint32)
    k0 = (seed + zero).to(tl.uint32)
    k1 = ((seed >> 32) + zero).to(tl.uint32)
    x, _, _, _ = tl.philox_impl(c0, c1, c2, c3, k0, k1)
    u = tl.minimum((x.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.99999994)
    # log1p by Kahan's correction: what 1 - u rounds off is put back.
    rest = 1.0 - u
    waiting = tl.where(rest == 1.0, u, -tl.log(rest) * u / tl.maximum(1.0 - rest, 1e-9))
    return -tl.log(waiting)


@triton.jit
def divided(logits, temperature):
    """Logits by temperature; as they are for temperature 0."""
    return tl.div_rn(logits, tl.where(temperature > 0.0, tl.maximum(temperature, 1e-30), 1.0))


@triton.jit(do_not_specialize=["num_rows"])
def head_draw_kernel(
    hidden, weight, temperatures, seeds, choice_indices, token_indices, tile_values, tile_ids,
    num_rows, VOCAB_SIZE: tl.constexpr, NUM_CHANNELS: tl.constexpr, ROW_TILE: tl.constexpr,
    OUTPUT_TILE: tl.constexpr, INPUT_TILE: tl.constexpr,
):  # fmt: skip
    """Best value and id of each row in a tile of the vocabulary. Grid: (row tiles, tiles)."""
    rows = tl.program_id(0) * ROW_TILE + tl.arange(0, ROW_TILE)
    tile = tl.program_id(1)
    outputs = tile * OUTPUT_TILE + tl.arange(0, OUTPUT_TILE)
    is_row = rows < num_rows
    logits = row_product(
        hidden, weight, rows, outputs, 0, num_rows, VOCAB_SIZE, NUM_CHANNELS, NUM_CHANNELS,
        INPUT_TILE,
    )  # fmt: skip
    temperature = tl.load(temperatures + rows, mask=is_row, other=0.0)
    noise = tl.zeros((ROW_TILE, OUTPUT_TILE), tl.float32)
    if tl.max(temperature, axis=0) > 0.0:
        noise = gumbel_noise(
            outputs[None, :],
            tl.load(token_indices + rows, mask=is_row, other=0)[:, None],
            tl.load(choice_indices + rows, mask=is_row, other=0)[:, None],
            tl.load(seeds + rows, mask=is_row, other=0)[:, None],
        )
    scores = divided(logits, temperature[:, None])
    scores = tl.where(temperature[:, None] > 0.0, scores + noise, scores)
    scores = tl.where((outputs < VOCAB_SIZE)[None, :], scores, float("-inf"))
    best = tl.max(scores, axis=1)
    ids = tl.min(tl.where(scores == best[:, None], outputs[None, :], VOCAB_SIZE - 1), axis=1)
    places = rows * tl.num_programs(1) + tile
    tl.store(tile_values + places, best, mask=is_row)
    tl.store(tile_ids + places, ids, mask=is_row)


@triton.jit
def tile_best_kernel(tile_values, tile_ids, out, NUM_TILES: tl.constexpr, WIDTH: tl.constexpr):
    """The best of a row's tiles. Grid: (B)."""
    row = tl.program_id(0)
    tiles = tl.arange(0, WIDTH)
    mask = tiles < NUM_TILES
    values = tl.load(tile_values + row * NUM_TILES + tiles, mask=mask, other=float("-inf"))
    ids = tl.load(tile_ids + row * NUM_TILES + tiles, mask=mask, other=0x7FFFFFFF)
    best = tl.max(values, axis=0)
    tl.store(out + row, tl.min(tl.where(values == best, ids, 0x7FFFFFFF), axis=0))
