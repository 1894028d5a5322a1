"""Runner: a Step becomes tensors, the tensors become token ids and a task's logits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from types import MappingProxyType

import torch
from torch import Tensor

from engine.request import TokenLogprob
from engine.step import Drawn, SamplingState, Step, StepResult, StepRow
from engine.tasks import SHARED, ServedTask, Trunk
from model.attention import Span
from model.logprobs import logprobs
from model.network import Network
from model.sampler import SamplingRow, sample
from model.slot_cache import SlotCache

SCORED_ROWS = 64
"""Rows whose logits exist at once when a prompt is scored, 1,024 x 50,257 in float32 being 206 MB;
and no more than products are tried with when a model is loaded (is_batch_invariant)."""


class Runner:
    """Owns the network and the cache. Holds nothing of a request between steps.

    ``tasks`` by name run through these, or through one of ``own_trunks``, which are the trunks from
    index 1 on.
    """

    def __init__(
        self,
        network: Network,
        cache: SlotCache,
        tasks: Mapping[str, ServedTask] = MappingProxyType({}),
        own_trunks: Sequence[Trunk] = (),
    ) -> None:
        self.network = network
        self.cache = cache
        self._tasks = tasks
        self._trunks = (Trunk(network, cache), *own_trunks)

    @torch.inference_mode()
    def run(self, step: Step) -> StepResult:
        """Compute a step: draw for rows with ``sampling``, score for those with ``scoring``,
        classify those that are."""
        trunk_of = {row.slot: self._trunk_of(row) for row in step.rows}
        for copy in step.copies:
            cache = self._trunks[trunk_of.get(copy.target, SHARED)].cache
            cache.copy_prefix(copy.source, copy.target, copy.length)
        result = StepResult()
        logits: dict[int, tuple[float, ...]] = {}
        for trunk in sorted(set(trunk_of.values())):
            rows = [row for row in step.rows if trunk_of[row.slot] == trunk]
            batch = _Batch(rows, [self._adapter_of(row) for row in rows])
            hidden = self._trunks[trunk].network.hidden(batch.ids, batch.spans, batch.wanted)
            if trunk == SHARED:  # tasks neither draw nor score
                result = self._results(batch, hidden)
            logits |= self._classified(batch, hidden)
        ordered = tuple(logits[row.request_id] for row in step.rows if row.is_classified)
        return replace(result, classified=ordered)

    def _trunk_of(self, row: StepRow) -> int:
        return SHARED if row.task is None else self._tasks[row.task.name].trunk

    def _adapter_of(self, row: StepRow) -> int | None:
        return None if row.task is None else self._tasks[row.task.name].adapter

    def _results(self, batch: _Batch, hidden: Tensor) -> StepResult:
        drawn = self._draw(hidden, batch.draws)
        scores = self._scores(hidden, batch.spots)
        counts = [len(row.scoring.target_ids) for row in batch.rows if row.scoring]
        return StepResult(drawn, tuple(tuple(islice(scores, count)) for count in counts))

    def _classified(self, batch: _Batch, hidden: Tensor) -> dict[int, tuple[float, ...]]:
        """What the heads make of the rows that end here, by request."""
        found: dict[int, tuple[float, ...]] = {}
        for name in {row.task.name for row, _ in batch.ends if row.task is not None}:
            mine = [
                (row.request_id, row.task.part, line)
                for row, line in batch.ends
                if row.task is not None and row.task.name == name
            ]
            request_ids, parts, lines = zip(*mine, strict=True)
            logits = self._tasks[name].head.logits(hidden[list(lines)], parts)  # (B, num_outputs)
            found |= zip(request_ids, map(tuple, logits.tolist()), strict=True)
        return found

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


class _Batch:
    """Some rows of a step as a network reads them, and what is asked of which hidden state.

    ``adapters`` has the index of each row's, or None. ``draws``, ``spots`` and ``ends`` count
    along the hidden states that are ``wanted``, (W).
    """

    def __init__(self, rows: Sequence[StepRow], adapters: Sequence[int | None]) -> None:
        self.rows = rows
        self.spans = [
            Span(row.slot, row.start, len(row.token_ids), adapter)
            for row, adapter in zip(rows, adapters, strict=True)
        ]
        self.ids = [token_id for row in rows for token_id in row.token_ids]  # (N)
        draws = [(row.sampling, end - 1) for row, _, end in _places(rows) if row.sampling]
        spots = [
            _Spot(start + row.scoring.offset + i, token_id, row.scoring.num_logprobs)
            for row, start, _ in _places(rows)
            if row.scoring
            for i, token_id in enumerate(row.scoring.target_ids)
        ]
        ends = [(row, end - 1) for row, _, end in _places(rows) if row.is_classified]
        self.wanted = sorted({i for _, i in (*draws, *ends)} | {spot.index for spot in spots})
        line = {index: i for i, index in enumerate(self.wanted)}
        self.draws = [(state, line[index]) for state, index in draws]
        self.spots = [replace(spot, index=line[spot.index]) for spot in spots]
        self.ends = [(row, line[index]) for row, index in ends]


def _places(rows: Iterable[StepRow]) -> Iterator[tuple[StepRow, int, int]]:
    """Each row, and where in N it begins and ends."""
    end = 0
    for row in rows:
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
        allowed=state.allowed,
        logit_bias=params.logit_bias,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        prompt_ids=state.prompt_ids,
        output_ids=state.output_ids,
        num_logprobs=params.num_logprobs,
    )
