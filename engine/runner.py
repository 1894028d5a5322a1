"""Runner: a Step becomes tensors, the tensors become token ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from engine.request import TokenLogprob
from engine.step import Drawn, SamplingState, Step, StepResult, StepRow
from model.attention import Span
from model.decoder import GPT
from model.kernels.native import AttentionFactory
from model.logprobs import logprobs
from model.sampler import SamplingRow, sample
from model.slot_cache import SlotCache

SCORED_ROWS = 64
"""Rows whose logits exist at once when a prompt is scored, 1,024 x 50,257 in float32 being 206 MB;
and no more than products are tried with when a model is loaded (is_batch_invariant)."""


class Runner:
    """Owns the network and the cache. Holds nothing of a request between steps."""

    def __init__(self, gpt: GPT, cache: SlotCache, attention: AttentionFactory) -> None:
        self.gpt = gpt
        self.cache = cache
        self._attention = attention

    @torch.inference_mode()
    def run(self, step: Step) -> StepResult:
        """Compute a step: draw for rows with ``sampling``, score for those with ``scoring``."""
        for copy in step.copies:
            self.cache.copy_prefix(copy.source, copy.target, copy.length)
        spans = [Span(row.slot, row.start, len(row.token_ids)) for row in step.rows]
        ids = torch.tensor([token_id for row in step.rows for token_id in row.token_ids])  # (N)
        positions = torch.tensor([p for span in spans for p in range(span.start, span.end)])
        hidden = self.gpt(ids, positions, self._attention(spans))  # (N, C)
        return StepResult(self._draw(hidden, step), self._score(hidden, step))

    def _draw(self, hidden: Tensor, step: Step) -> tuple[Drawn, ...]:
        """The next token of each row with ``sampling``. hidden (N, C)."""
        rows = [(row.sampling, end - 1) for row, _, end in _places(step) if row.sampling]
        if not rows:
            return ()
        logits = self.gpt.logits(hidden[[last for _, last in rows]])  # (B, V)
        drawn = sample(logits, [_sampling_row(state) for state, _ in rows])
        return tuple(Drawn(one.token_id, one.logprob, one.top) for one in drawn)

    def _score(self, hidden: Tensor, step: Step) -> tuple[tuple[TokenLogprob, ...], ...]:
        """The log probabilities that each row with ``scoring`` asks for. hidden (N, C)."""
        rows = [(row.scoring, start) for row, start, _ in _places(step) if row.scoring]
        spots = [
            _Spot(start + state.offset + i, token_id, state.num_logprobs)
            for state, start in rows
            for i, token_id in enumerate(state.target_ids)
        ]
        scores = self._scores(hidden, spots)
        return tuple(tuple(islice(scores, len(state.target_ids))) for state, _ in rows)

    def _scores(self, hidden: Tensor, spots: list[_Spot]) -> Iterator[TokenLogprob]:
        for first in range(0, len(spots), SCORED_ROWS):
            tile = spots[first : first + SCORED_ROWS]
            logits = self.gpt.logits(hidden[[spot.index for spot in tile]])  # (B, V)
            num_top = max(spot.num_logprobs for spot in tile)
            found = logprobs(logits, [spot.token_id for spot in tile], num_top)
            for spot, one in zip(tile, found, strict=True):
                yield TokenLogprob(one.logprob, one.top[: spot.num_logprobs])


@dataclass(frozen=True, slots=True)
class _Spot:
    """A place in N, and the token that is asked about there."""

    index: int
    token_id: int
    num_logprobs: int


def _places(step: Step) -> Iterator[tuple[StepRow, int, int]]:
    """Each row, and where in N it begins and ends."""
    end = 0
    for row in step.rows:
        start, end = end, end + len(row.token_ids)
        yield row, start, end


def _sampling_row(state: SamplingState) -> SamplingRow:
    params = state.params
    return SamplingRow(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        seed=params.seed,
        choice_index=params.choice_index,
        token_index=state.token_index,
        banned_ids=state.banned_ids,
        logit_bias=params.logit_bias,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        prompt_ids=state.prompt_ids,
        output_ids=state.output_ids,
        num_logprobs=params.num_logprobs,
    )
