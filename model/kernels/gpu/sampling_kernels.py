"""Sampling with filters: one program for each row of logits, in the order of model.sampler.

Logit bias and banned ids; penalties; temperature; top-k; top-p over the survivors; min-p; the
draw. Nothing is sorted: the cut of top-k and of top-p is found bit by bit, by radix, over integers
that order tokens by (logit descending, id ascending), so ties fall as they do in a stable sort. The
changed logits of a row live in a scratch line, which its passes find in the nearest cache.
"""

import triton
import triton.language as tl

from model.kernels.gpu.head_kernels import divided, gumbel_noise


@triton.jit
def ordered(logits, ids, ID_BITS: tl.constexpr):
    """Whole numbers in the order of (logit, lower id), int64. -0.0 equals 0.0."""
    bits = tl.where(logits == 0.0, 0.0, logits).to(tl.int32, bitcast=True)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    high = bits.to(tl.int64) + 2147483648
    return (high << ID_BITS) + (((1 << ID_BITS) - 1) - ids).to(tl.int64)


@triton.jit
def row_max(line, vocab_size, VOCAB_TILE: tl.constexpr):
    """The largest of a line."""
    best = tl.full((VOCAB_TILE,), float("-inf"), tl.float32)
    for start in range(0, vocab_size, VOCAB_TILE):
        ids = start + tl.arange(0, VOCAB_TILE)
        best = tl.maximum(best, tl.load(line + ids, mask=ids < vocab_size, other=float("-inf")))
    return tl.max(best, axis=0)


@triton.jit
def log_normaliser(line, scratch, vocab_size, VOCAB_TILE: tl.constexpr):
    """log of the sum of exp over a line, float64; copies the line to ``scratch`` on its way."""
    largest = row_max(line, vocab_size, VOCAB_TILE)
    total = tl.zeros((VOCAB_TILE,), tl.float64)
    for start in range(0, vocab_size, VOCAB_TILE):
        ids = start + tl.arange(0, VOCAB_TILE)
        x = tl.load(line + ids, mask=ids < vocab_size, other=float("-inf"))
        total += tl.exp(x - largest).to(tl.float64)
        tl.store(scratch + ids, x, mask=ids < vocab_size)
    return largest.to(tl.float64) + tl.log(tl.sum(total, axis=0))


@triton.jit
def apply_bias(scratch, bias_ids, biases, count, TILE: tl.constexpr):
    """Add ``biases`` to the logits of ``bias_ids``; -1 is none."""
    for start in range(0, count, TILE):
        places = start + tl.arange(0, TILE)
        ids = tl.load(bias_ids + places, mask=places < count, other=-1)
        change = tl.load(biases + places, mask=ids >= 0, other=0.0)
        tl.store(scratch + ids, tl.load(scratch + ids, mask=ids >= 0) + change, mask=ids >= 0)


@triton.jit
def ban(scratch, banned_ids, count, TILE: tl.constexpr):
    """No probability for ``banned_ids``; -1 is none."""
    for start in range(0, count, TILE):
        places = start + tl.arange(0, TILE)
        ids = tl.load(banned_ids + places, mask=places < count, other=-1)
        tl.store(scratch + ids, tl.full((TILE,), float("-inf"), tl.float32), mask=ids >= 0)


@triton.jit
def penalise(
    scratch, history, prompt_len, length, repetition, presence, frequency, TILE: tl.constexpr
):
    """Repetition over prompt and output, presence and frequency over output.

    Each token of the history counts itself among all; the first of its kind changes the logit.
    """
    for start in range(0, length, TILE):
        places = start + tl.arange(0, TILE)
        ids = tl.load(history + places, mask=places < length, other=-1)
        count = tl.zeros((TILE,), tl.int32)
        earlier = tl.zeros((TILE,), tl.int32)
        for other_start in range(0, length, TILE):
            others = other_start + tl.arange(0, TILE)
            other_ids = tl.load(history + others, mask=others < length, other=-2)
            is_same = ids[:, None] == other_ids[None, :]
            is_output = (others >= prompt_len)[None, :]
            is_earlier = others[None, :] < places[:, None]
            count += tl.sum((is_same & is_output).to(tl.int32), axis=1)
            earlier += tl.sum((is_same & is_earlier).to(tl.int32), axis=1)
        is_first = (places < length) & (earlier == 0)
        x = tl.load(scratch + ids, mask=is_first, other=0.0)
        x = tl.where(x < 0.0, x * repetition, tl.div_rn(x, repetition + tl.zeros_like(x)))
        change = presence + frequency * count.to(tl.float32)
        tl.store(scratch + ids, tl.where(count > 0, x - change, x), mask=is_first)


@triton.jit
def measure(
    scratch, vocab_size, floor, first, second, third, IS_MASS: tl.constexpr,
    ID_BITS: tl.constexpr, VOCAB_TILE: tl.constexpr,
):  # fmt: skip
    """Number or weight of the tokens at or above each of three bounds, and ``floor``; float64."""
    above_first = tl.zeros((VOCAB_TILE,), tl.float64)
    above_second = tl.zeros((VOCAB_TILE,), tl.float64)
    above_third = tl.zeros((VOCAB_TILE,), tl.float64)
    for start in range(0, vocab_size, VOCAB_TILE):
        ids = start + tl.arange(0, VOCAB_TILE)
        x = tl.load(scratch + ids, mask=ids < vocab_size, other=float("-inf"))
        place = ordered(x, ids, ID_BITS)
        weight = tl.full((VOCAB_TILE,), 1.0, tl.float64)
        if IS_MASS:
            weight = tl.exp(x).to(tl.float64)
        weight = tl.where((ids < vocab_size) & (place >= floor), weight, 0.0)
        above_first += tl.where(place >= first, weight, 0.0)
        above_second += tl.where(place >= second, weight, 0.0)
        above_third += tl.where(place >= third, weight, 0.0)
    return tl.sum(above_first, axis=0), tl.sum(above_second, axis=0), tl.sum(above_third, axis=0)


@triton.jit
def cut(
    scratch, vocab_size, floor, share, IS_MASS: tl.constexpr, ID_BITS: tl.constexpr,
    VOCAB_TILE: tl.constexpr,
):  # fmt: skip
    """The highest bound above which lie ``share`` tokens, or that share of the whole weight.

    Two bits of the bound a pass, from the highest down; done as soon as nothing is left to split.
    """
    reached, _, _ = measure(
        scratch, vocab_size, floor, floor, floor, floor, IS_MASS, ID_BITS, VOCAB_TILE
    )
    target = tl.minimum(share, reached)
    if IS_MASS:
        target = share * reached
    bound = tl.zeros((), tl.int64)
    one = bound + 1
    shift = bound + ((32 + ID_BITS + 1) // 2 * 2 - 2)
    while (shift >= 0) & (reached != target):
        step = one << shift
        first = bound + step
        second = first + step
        third = second + step
        above_first, above_second, above_third = measure(
            scratch, vocab_size, floor, first, second, third, IS_MASS, ID_BITS, VOCAB_TILE
        )
        if above_third >= target:
            bound = third
            reached = above_third
        elif above_second >= target:
            bound = second
            reached = above_second
        elif above_first >= target:
            bound = first
            reached = above_first
        shift -= 2
    return tl.maximum(bound, floor)


@triton.jit
def scale_line(scratch, vocab_size, temperature, VOCAB_TILE: tl.constexpr):
    """Largest first brought to 0, then divided: no temperature, however low, overflows."""
    largest = row_max(scratch, vocab_size, VOCAB_TILE)
    for start in range(0, vocab_size, VOCAB_TILE):
        ids = start + tl.arange(0, VOCAB_TILE)
        x = tl.load(scratch + ids, mask=ids < vocab_size, other=float("-inf"))
        tl.store(scratch + ids, divided(x - largest, temperature), mask=ids < vocab_size)


@triton.jit
def draw(
    scratch, vocab_size, is_filtered, floor, min_p, divisor, is_greedy, token_index, choice_index,
    seed, ID_BITS: tl.constexpr, VOCAB_TILE: tl.constexpr,
):  # fmt: skip
    """The best noisy logit of those at or above ``floor``; the largest logit if greedy."""
    best = tl.full((VOCAB_TILE,), float("-inf"), tl.float32)
    best_ids = tl.arange(0, VOCAB_TILE)
    for start in range(0, vocab_size, VOCAB_TILE):
        ids = start + tl.arange(0, VOCAB_TILE)
        x = tl.load(scratch + ids, mask=ids < vocab_size, other=float("-inf"))
        is_kept = x > float("-inf")
        if is_filtered:
            weight = tl.exp(x).to(tl.float64)
            is_kept = (ordered(x, ids, ID_BITS) >= floor) & (weight >= min_p) & (weight > 0.0)
        if tl.max(is_kept.to(tl.int32), axis=0) > 0:
            scores = divided(x, divisor)
            if is_greedy == 0:
                scores += gumbel_noise(ids, token_index, choice_index, seed)
            is_better = is_kept & (scores > best)
            best = tl.where(is_better, scores, best)
            best_ids = tl.where(is_better, ids, best_ids)
    largest = tl.max(best, axis=0)
    found = tl.min(tl.where(best == largest, best_ids, 0x7FFFFFFF), axis=0)
    return tl.minimum(found, vocab_size - 1)


@triton.jit
def store_likeliest(
    line, vocab_size, normaliser, count, top_ids, top_logprobs, ID_BITS: tl.constexpr,
    VOCAB_TILE: tl.constexpr,
):  # fmt: skip
    """The ``count`` likeliest tokens of the raw logits, each the best below the one before."""
    bound = tl.full((), 1, tl.int64) << (32 + ID_BITS)
    for place in range(count):
        best = tl.full((VOCAB_TILE,), -1, tl.int64)
        for start in range(0, vocab_size, VOCAB_TILE):
            ids = start + tl.arange(0, VOCAB_TILE)
            x = tl.load(line + ids, mask=ids < vocab_size, other=float("-inf"))
            key = ordered(x, ids, ID_BITS)
            best = tl.maximum(best, tl.where((ids < vocab_size) & (key < bound), key, -1))
        bound = tl.max(best, axis=0)
        token_id = ((1 << ID_BITS) - 1) - (bound & ((1 << ID_BITS) - 1))
        logprob = tl.load(line + token_id).to(tl.float64) - normaliser
        tl.store(top_ids + place, token_id.to(tl.int32))
        tl.store(top_logprobs + place, logprob.to(tl.float32))


@triton.jit
def sampling_kernel(
    logits, scratches, temperatures, seeds, choice_indices, token_indices, top_ks, top_ps, min_ps,
    repetitions, presences, frequencies, histories, slots, prompt_lens, lens, bias_ids, biases,
    banned_ids, num_tops, out_ids, out_logprobs, top_ids, top_logprobs, vocab_size, scratch_len,
    num_biases, num_banned, history_len, max_top, ID_BITS: tl.constexpr, VOCAB_TILE: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Draw a token for one row. Grid: (B)."""
    row = tl.program_id(0)
    line = logits + row.to(tl.int64) * vocab_size
    scratch = scratches + row.to(tl.int64) * scratch_len
    normaliser = log_normaliser(line, scratch, vocab_size, VOCAB_TILE)
    tl.debug_barrier()
    apply_bias(scratch, bias_ids + row * num_biases, biases + row * num_biases, num_biases, TILE)
    tl.debug_barrier()
    ban(scratch, banned_ids + row * num_banned, num_banned, TILE)
    tl.debug_barrier()
    repetition = tl.load(repetitions + row)
    presence = tl.load(presences + row)
    frequency = tl.load(frequencies + row)
    if (repetition != 1.0) | (presence != 0.0) | (frequency != 0.0):
        history = histories + tl.load(slots + row).to(tl.int64) * history_len
        length = tl.load(lens + row)
        prompt_len = tl.load(prompt_lens + row)
        penalise(scratch, history, prompt_len, length, repetition, presence, frequency, TILE)
    tl.debug_barrier()
    temperature = tl.load(temperatures + row)
    top_k = tl.load(top_ks + row)
    top_p = tl.load(top_ps + row)
    min_p = tl.load(min_ps + row)
    is_filtered = (temperature > 0.0) & ((top_k > 0) | (top_p < 1.0) | (min_p > 0.0))
    floor = tl.zeros((), tl.int64)
    divisor = temperature
    if is_filtered:
        scale_line(scratch, vocab_size, temperature, VOCAB_TILE)
        divisor = temperature * 0.0
        tl.debug_barrier()
        if top_k > 0:
            floor = cut(
                scratch, vocab_size, floor, top_k.to(tl.float64), False, ID_BITS, VOCAB_TILE
            )
        if top_p < 1.0:
            floor = cut(scratch, vocab_size, floor, top_p, True, ID_BITS, VOCAB_TILE)
    token_id = draw(
        scratch, vocab_size, is_filtered, floor, min_p, divisor, temperature <= 0.0,
        tl.load(token_indices + row), tl.load(choice_indices + row), tl.load(seeds + row),
        ID_BITS, VOCAB_TILE,
    )  # fmt: skip
    tl.store(out_ids + row, token_id)
    logprob = tl.load(line + token_id).to(tl.float64) - normaliser
    tl.store(out_logprobs + row, logprob.to(tl.float32))
    store_likeliest(
        line, vocab_size, normaliser, tl.load(num_tops + row), top_ids + row * max_top,
        top_logprobs + row * max_top, ID_BITS, VOCAB_TILE,
    )  # fmt: skip
