"""The choice of the next token: float32 logits in, ids and log probabilities out.

The order, applied to each row by itself: logit bias, what is allowed and the minimum length;
penalties (repetition over prompt and output, presence and frequency over output); temperature;
top-k; top-p over the renormalised survivors; min-p; the draw. Ties go to the lower id. Log
probabilities are those of the raw distribution, before all of it.

On a CPU a token is drawn by inverting the cumulative distribution at one uniform number, keyed by
(seed, choice index, token index). Every sum is taken in an order that does not depend on
how many rows there are, so a row's result is the same alone and in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.logprobs import BLOCK_LEN, block_sums, likeliest, logprobs, unnormalised
from model.philox import uniform

MIN_TEMPERATURE = 1e-30
"""Float32 has no numbers much smaller to divide by; long before, draws are greedy."""

NUM_CANDIDATES = 512
"""Likeliest tokens looked at first where only top-p or min-p bound the choice."""


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """What one row asks for. ``banned_ids`` may not be drawn yet (minimum length).

    Where ``allowed`` is given nothing else may be drawn: one bit for each token, the lowest bit of
    the first byte being id 0; at least one is set.

    ``output_ids`` are the tokens generated so far, ``prompt_ids`` those before; both are only
    read where a penalty needs them.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    choice_index: int = 0
    token_index: int = 0
    banned_ids: tuple[int, ...] = ()
    allowed: bytes | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    prompt_ids: Sequence[int] = ()
    output_ids: Sequence[int] = ()
    num_logprobs: int | None = None

    @property
    def is_filtered(self) -> bool:
        """Whether fewer tokens than the whole vocabulary may be drawn."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def is_adjusted(self) -> bool:
        """Whether the logits change before the temperature, but for what is ``allowed``."""
        return bool(
            self.banned_ids
            or self.logit_bias
            or self.repetition_penalty != 1
            or self.presence_penalty
            or self.frequency_penalty
        )


@dataclass(frozen=True, slots=True)
class Sampled:
    """A drawn token, with its raw log probability and the likeliest ones where asked for."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def sample(logits: Tensor, rows: Sequence[SamplingRow]) -> list[Sampled]:
    """Draw one token a row. ``logits`` (B, V) float32, one line for each of ``rows``."""
    adjusted = _adjust(logits, rows)
    ids = [0] * len(rows)
    greedy = [i for i, row in enumerate(rows) if row.temperature == 0]
    for i, token_id in zip(greedy, _likeliest_ids(_lines(adjusted, greedy)), strict=True):
        ids[i] = token_id
    for is_filtered, draw in ((False, _draw_any), (True, _draw_filtered)):
        some = [
            i
            for i, row in enumerate(rows)
            if row.temperature > 0 and row.is_filtered == is_filtered
        ]
        if some:
            chosen = [rows[i] for i in some]
            temperature = torch.tensor([max(row.temperature, MIN_TEMPERATURE) for row in chosen])
            lines = _lines(adjusted, some)
            # Largest first brought to 0, so that no temperature, however low, overflows.
            scaled = (lines - lines.amax(-1, keepdim=True)) / temperature.unsqueeze(1)
            for i, token_id in zip(some, draw(scaled, chosen), strict=True):
                ids[i] = token_id
    return [_with_logprobs(logits[i], row, ids[i]) for i, row in enumerate(rows)]


def _lines(logits: Tensor, some: Sequence[int]) -> Tensor:
    """The lines of ``some`` rows, ascending. All of them need no copy, which is 13 MB for 64."""
    return logits if len(some) == len(logits) else logits[list(some)]


def _likeliest_ids(logits: Tensor) -> list[int]:
    """The first largest of each line; numpy finds it six times as fast as torch does."""
    ids: list[int] = logits.numpy().argmax(-1).tolist()
    return ids


def _adjust(logits: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """Apply masks, bias, minimum length and penalties; copies only if some row needs it."""
    if any(row.allowed is not None for row in rows):
        logits = logits.masked_fill(_forbidden(rows, logits.shape[-1]), float("-inf"))
    elif any(row.is_adjusted for row in rows):
        logits = logits.clone()
    for i, row in enumerate(rows):
        if row.is_adjusted:
            _adjust_row(logits[i], row)
    return logits


def _adjust_row(logits: Tensor, row: SamplingRow) -> None:
    """Change one line, (V), in place."""
    if row.logit_bias:
        biased, biases = zip(*row.logit_bias, strict=True)
        logits[list(biased)] += torch.tensor(biases)
    if row.banned_ids:
        logits[list(row.banned_ids)] = float("-inf")
    if row.repetition_penalty != 1:
        seen = torch.tensor(sorted({*row.prompt_ids, *row.output_ids}))
        values = logits[seen]
        logits[seen] = torch.where(
            values < 0, values * row.repetition_penalty, values / row.repetition_penalty
        )
    if row.output_ids and (row.presence_penalty or row.frequency_penalty):
        ids, counts = torch.unique(torch.tensor(row.output_ids), return_counts=True)
        logits[ids] -= row.presence_penalty + row.frequency_penalty * counts


def _forbidden(rows: Sequence[SamplingRow], vocab_size: int) -> Tensor:
    """(B, V), true for each token whose bit is not set. All rows at once: a call costs more than
    a row does. No bias brings back what is infinitely unlikely, so masks may come first."""
    size = (vocab_size + 7) // 8
    anything = b"\xff" * size
    masks = [anything if row.allowed is None else row.allowed[:size] for row in rows]
    packed = np.frombuffer(b"".join(mask.ljust(size, b"\0") for mask in masks), dtype=np.uint8)
    bits = np.unpackbits(
        packed.reshape(len(rows), size), axis=1, count=vocab_size, bitorder="little"
    )  # (B, V)
    return torch.from_numpy(bits) == 0


def _draw_any(logits: Tensor, rows: Sequence[SamplingRow]) -> list[int]:
    """Draw from the whole vocabulary, the cumulative distribution running in the order of ids."""
    values = unnormalised(logits)
    ends = block_sums(values).cumsum(-1)  # (B, blocks)
    targets = _uniforms(rows) * ends[:, -1:]  # (B, 1)
    block = _first_above(ends, targets)  # (B, 1)
    start = F.pad(ends, (1, 0)).gather(1, block)  # the sum before the block
    blocks = values.view(len(rows), -1, BLOCK_LEN)
    inside = blocks[torch.arange(len(rows)), block[:, 0]].double()  # (B, BLOCK_LEN)
    place = _first_above(inside.cumsum(-1) + start, targets)
    return _never_zero(inside, place, block * BLOCK_LEN)


def _first_above(ends: Tensor, targets: Tensor) -> Tensor:
    """Index of the first cumulative sum above the target, (B, 1). Steps of zero are skipped."""
    return torch.searchsorted(ends, targets, right=True).clamp_(max=ends.shape[-1] - 1)


def _never_zero(inside: Tensor, place: Tensor, offset: Tensor) -> list[int]:
    """Token ids; where rounding put the target past the last possible token, that token."""
    places = torch.arange(inside.shape[-1])
    possible = inside > 0
    last = torch.where(possible, places, -1).amax(-1, keepdim=True)
    place = torch.where(possible.gather(1, place), place, torch.minimum(place, last))
    ids: list[int] = (place + offset)[:, 0].tolist()
    return ids


def _draw_filtered(logits: Tensor, rows: Sequence[SamplingRow]) -> list[int]:
    """Draw from a prefix of the tokens sorted by logit, which is what every filter leaves."""
    vocab_size = logits.shape[-1]
    wanted = max(row.top_k + 1 if row.top_k > 0 else NUM_CANDIDATES for row in rows)
    totals = block_sums(unnormalised(logits)).sum(-1)  # (B)
    values, ids = likeliest(logits, min(wanted, vocab_size))
    drawn = []
    for i, row in enumerate(rows):
        line_values, line_ids = values[i], ids[i]
        kept = _cumulative(line_values, row, totals[i])
        is_open = len(line_values) < vocab_size and bool(
            line_values[len(kept) - 1] == line_values[-1]
        )
        if is_open:  # the cut, or a tie at it, may lie beyond the candidates: look at all
            line_values, line_ids = torch.sort(logits[i], descending=True, stable=True)
            kept = _cumulative(line_values, row, totals[i])
        target = kept[-1:] * _uniform(row)
        drawn.append(int(line_ids[int(_first_above(kept, target))]))
    return drawn


def _cumulative(values: Tensor, row: SamplingRow, total: Tensor) -> Tensor:
    """Cumulative weights, float64, of the tokens that top-k, top-p and min-p leave.

    ``values`` are logits, largest first; ``total`` is the weight of the whole vocabulary. The
    first token always stays.
    """
    if row.top_k > 0:
        values = values[: row.top_k]
    weights = (values - values[0]).exp().double()
    ends = weights.cumsum(-1)
    count = len(values)
    if row.top_p < 1:
        mass = ends[-1] if row.top_k > 0 else total
        count = min(count, 1 + int((ends < row.top_p * mass).sum()))
    if row.min_p > 0:
        count = min(count, int((weights >= row.min_p).sum()))
    count = min(count, int((weights > 0).sum()))
    return ends[:count]


def _uniform(row: SamplingRow) -> float:
    return uniform(row.seed, row.choice_index, row.token_index)


def _uniforms(rows: Sequence[SamplingRow]) -> Tensor:
    """(B, 1), float64, each between 0 and 1 and never either."""
    return torch.tensor([[_uniform(row)] for row in rows], dtype=torch.float64)


def _with_logprobs(logits: Tensor, row: SamplingRow, token_id: int) -> Sampled:
    """Attach raw log probabilities. ``logits`` is the row's raw line, (V)."""
    if row.num_logprobs is None:
        return Sampled(token_id)
    (found,) = logprobs(logits.unsqueeze(0), [token_id], row.num_logprobs)
    return Sampled(token_id, found.logprob, found.top)
