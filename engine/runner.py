"""Runner: a Step becomes tensors, the tensors become token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from engine.request import TokenLogprob
from engine.step import Drawn, SamplingState, Step, StepResult, StepRow
from model.attention import Span
from model.logprobs import logprobs
from model.network import Network
from model.sampler import SamplingRow, sample
from model.slot_cache import SlotCache

SCORED_ROWS = 64
"""Rows whose logits exist at once when a prompt is scored, 1,024 x 50,257 in float32 being 206 MB;
and no more than products are tried with when a model is loaded (is_batch_invariant)."""


class Runner:
    """Owns the network and the cache. Holds nothing of a request between steps."""

    def __init__(self, network: Network, cache: SlotCache) -> None:
        self.network = network
        self.cache = cache

    @torch.inference_mode()
    def run(self, step: Step) -> StepResult:
        """Compute a step: draw for rows with ``sampling``, score for those with ``scoring``."""
        for copy in step.copies:
            self.cache.copy_prefix(copy.source, copy.target, copy.length)
        spans = [Span(row.slot, row.start, len(row.token_ids)) for row in step.rows]
        ids = [token_id for row in step.rows for token_id in row.token_ids]  # (N)
        draws = [(row.sampling, end - 1) for row, _, end in _places(step) if row.sampling]
        spots = [
            _Spot(start + row.scoring.offset + i, token_id, row.scoring.num_logprobs)
            for row, start, _ in _places(step)
            if row.scoring
            for i, token_id in enumerate(row.scoring.target_ids)
        ]
        wanted = sorted({index for _, index in draws} | {spot.index for spot in spots})
        hidden = self.network.hidden(ids, spans, wanted)  # (W, C)
        line = {index: i for i, index in enumerate(wanted)}
        drawn = self._draw(hidden, [(state, line[index]) for state, index in draws])
        scores = self._scores(hidden, [replace(spot, index=line[spot.index]) for spot in spots])
        counts = [len(row.scoring.target_ids) for row in step.rows if row.scoring]
        return StepResult(drawn, tuple(tuple(islice(scores, count)) for count in counts))

    def _draw(self, hidden: Tensor, rows: Sequence[tuple[SamplingState, int]]) -> tuple[Drawn, ...]:
        """The next token of each row, whose hidden state has the index beside it."""
        if not rows:
            return ()
        logits = self.network.logits(hidden[[index for _, index in rows]])  # (B, V)
        drawn = sample(logits, [_sampling_row(state) for state, _ in rows])
        return tuple(Drawn(one.token_id, one.logprob, one.top) for one in drawn)

    def _scores(self, hidden: Tensor, spots: Sequence[_Spot]) -> Iterator[TokenLogprob]:
        for first in range(0, len(spots), SCORED_ROWS):
            tile = spots[first : first + SCORED_ROWS]
            logits = self.network.logits(hidden[[spot.index for spot in tile]])  # (B, V)
            num_top = max(spot.num_logprobs for spot in tile)
            found = logprobs(logits, [spot.token_id for spot in tile], num_top)
            for spot, one in zip(tile, found, strict=True):
                yield TokenLogprob(one.logprob, one.top[: spot.num_logprobs])


@dataclass(frozen=True, slots=True)
class _Spot:
    """A place among the step's tokens, and the token that is asked about there."""

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
