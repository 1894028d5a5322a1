"""PipelinedScheduler: launches are decided before the results of earlier ones are known.

Device work runs in the order in which it was queued, so what a launch computes counts as
computed from then on: a prefix may be copied by the next launch. Only the drawn tokens come
late. A sequence's decode steps are counted against its limit when they are launched; one that
ends earlier, by an ending token, is put to rest by the device itself. Imports no torch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

from engine.chunk_budget import ChunkBudget
from engine.device.launch import DecodeLaunch, Launch, PrefillLaunch, RowResult, SlotSetup
from engine.request import FinishReason, SamplingParams, TokenOutput
from engine.scheduler import Scheduler
from engine.sequence import SequenceState
from engine.slot_pool import SlotPool
from engine.step import StepRow


class PipelinedScheduler(Scheduler):
    """Admits, copies prefixes and chunks prompts as Scheduler does; prefill and decode are apart.

    A slot is free again when the last launch that its sequence was part of has been collected.
    Where not ``keeps_generated``, positions that decoding computed are no prefix for others:
    their bits may differ from those that a prefill computes.
    """

    def __init__(
        self,
        pool: SlotPool,
        context_len: int,
        vocab_size: int,
        eos_token_ids: Iterable[int] = (),
        clock: Callable[[], float] = time.monotonic,
        *,
        max_chunk_len: int,
        max_spans: int,
        max_rows: int,
        keeps_generated: bool = True,
    ) -> None:
        super().__init__(pool, context_len, vocab_size, eos_token_ids, clock)
        self._budget = ChunkBudget(max_chunk_len)
        self._max_spans = max_spans
        self._max_rows = max_rows
        self._keeps_generated = keeps_generated
        self._set_up: set[SequenceState] = set()
        self._draws_left: dict[SequenceState, int] = {}  # of those whose prompt is launched
        self._in_flight: Counter[SequenceState] = Counter()
        self._leaving: set[SequenceState] = set()

    @property
    def has_work(self) -> bool:
        """Whether anything is to be launched or collected."""
        return super().has_work or bool(self._in_flight)

    @property
    def num_decoding(self) -> int:
        """Sequences that may be launched for another token."""
        return sum(left > 0 for left in self._draws_left.values())

    # -- launches --------------------------------------------------------------------------

    def prefill(self) -> PrefillLaunch | None:
        """The next chunk of prompts, if there is any. Takes slots for admitted requests."""
        prefilling = [s for s in self._running if s not in self._draws_left]
        step = self._chunks(prefilling, self._budget.tokens(self.num_decoding), self._max_spans)
        if not step.rows:
            return None
        sequences = tuple(self._by_id[row.request_id] for row in step.rows)
        new = [sequence for sequence in sequences if sequence not in self._set_up]
        self._set_up.update(new)
        pairs = list(zip(sequences, step.rows, strict=True))
        drawing = [s.request.params for s, row in pairs if row.sampling is not None]
        launch = PrefillLaunch(
            sequences,
            any(map(needs_full, drawing)) or any(map(self._is_short, sequences)),
            most_logprobs(drawing),
            tuple(map(self._setup, new)),
            step,
            tuple(row.start + len(row.token_ids) == s.num_needed for s, row in pairs),
        )
        for sequence, row, completes in zip(sequences, step.rows, launch.completes, strict=True):
            self._note_chunk(sequence, row, completes)
        self._in_flight.update(sequences)
        return launch

    def _note_chunk(self, sequence: SequenceState, row: StepRow, completes: bool) -> None:
        sequence.num_computed += len(row.token_ids)
        self.pool.fill(sequence.slot, sequence.token_ids, sequence.num_computed)
        if completes:
            left = self._max_len(sequence) - len(sequence.token_ids) - 1
            self._draws_left[sequence] = left if sequence.request.params.max_tokens else 0

    def decode(self) -> DecodeLaunch | None:
        """One more token for each sequence that may have one, if there is any."""
        drawing = [s for s in self._running if self._draws_left.get(s, 0) > 0]
        drawing = drawing[: self._max_rows]
        if not drawing:
            return None
        params = [sequence.request.params for sequence in drawing]
        is_full = any(map(needs_full, params)) or any(map(self._is_short, drawing))
        for sequence in drawing:
            self._draws_left[sequence] -= 1
        self._in_flight.update(drawing)
        return DecodeLaunch(tuple(drawing), is_full, most_logprobs(params))

    def _is_short(self, sequence: SequenceState) -> bool:
        """Whether the next draw may have to avoid ending tokens.

        Tokens in flight are not counted: a few steps more than needed look at the bans.
        """
        return sequence.output_len < sequence.request.params.min_tokens

    def _max_len(self, sequence: SequenceState) -> int:
        """Tokens at which it ends."""
        request = sequence.request
        most = len(request.prompt_ids) + request.params.max_tokens
        return min(most, self._context_len + 1)

    def _setup(self, sequence: SequenceState) -> SlotSetup:
        request, params = sequence.request, sequence.request.params
        ids = sorted({*params.stop_token_ids, *self._eos_token_ids})
        may_ban = len(ids) < self._vocab_size
        return SlotSetup(
            slot=sequence.slot,
            num_known=len(sequence.token_ids),
            prompt_len=len(request.prompt_ids),
            max_len=self._max_len(sequence),
            min_len=len(request.prompt_ids) + params.min_tokens if may_ban else 0,
            params=params,
            ending_ids=tuple(ids),
            ends=tuple(i in params.stop_token_ids or not params.ignore_eos for i in ids),
        )

    # -- results ---------------------------------------------------------------------------

    def collect(self, launch: Launch, results: Sequence[RowResult]) -> list[TokenOutput]:
        """Take in what a launch brought; launches come back in the order they went.

        Rows of requests that are gone are dropped. RuntimeError if the device thinks otherwise
        than we about where a sequence ends.
        """
        now_s = self._clock()
        outputs = []
        is_prefill = isinstance(launch, PrefillLaunch)
        completes = launch.completes if isinstance(launch, PrefillLaunch) else ()
        for i, (sequence, result) in enumerate(zip(launch.sequences, results, strict=True)):
            if self._by_id.get(sequence.request.request_id) is sequence:
                if is_prefill:
                    output = self._prefilled(sequence, result, completes[i], now_s)
                else:
                    output = self._decoded(sequence, result, now_s)
                outputs += [output] if output is not None else []
            self._land(sequence)
        return outputs

    def _prefilled(
        self, sequence: SequenceState, result: RowResult, completes: bool, now_s: float
    ) -> TokenOutput | None:
        if not (completes or result.scored):
            return None
        reason = None
        if result.token is not None:
            reason = self._append(sequence, result.token, now_s)
            _check_end(sequence, result, reason)
        elif completes:
            reason = FinishReason.LENGTH
        return self._output(sequence, result.token, result.scored, reason, now_s)

    def _decoded(self, sequence: SequenceState, result: RowResult, now_s: float) -> TokenOutput:
        if result.token is None:
            raise RuntimeError(f"{_name(sequence)} was put to rest by the device before its end")
        sequence.num_computed += 1
        if self._keeps_generated:
            self.pool.fill(sequence.slot, sequence.token_ids, sequence.num_computed)
        reason = self._append(sequence, result.token, now_s)
        _check_end(sequence, result, reason)
        return self._output(sequence, result.token, (), reason, now_s)

    def _land(self, sequence: SequenceState) -> None:
        """One launch less that the sequence is part of."""
        self._in_flight[sequence] -= 1
        if self._in_flight[sequence]:
            return
        del self._in_flight[sequence]
        if sequence in self._leaving:
            self._leaving.remove(sequence)
            super()._release(sequence)

    def _release(self, sequence: SequenceState) -> None:
        """The slot is free when nothing in flight uses it."""
        self._set_up.discard(sequence)
        self._draws_left.pop(sequence, None)
        if self._in_flight[sequence]:
            self._leaving.add(sequence)
        else:
            del self._in_flight[sequence]
            super()._release(sequence)

    def observe(self, num_decoding: int, num_prompt_tokens: int, step_s: float) -> None:
        """Take note of what a launch took the device."""
        self._budget.observe(num_decoding, num_prompt_tokens, step_s)

    def check_integrity(self) -> None:
        """See Scheduler; a slot in flight is still held."""
        self.pool.check_integrity()
        if len(self._by_id) != len(self._waiting) + len(self._running):
            raise AssertionError("a request is neither waiting nor running, or both")
        slots = [sequence.slot for sequence in (*self._running, *self._leaving)]
        if len(set(slots)) != len(slots) or len(slots) != self.pool.num_held:
            raise AssertionError("running or leaving requests and held slots differ")
        if not self._leaving <= self._in_flight.keys():
            raise AssertionError("a request leaves, but nothing of it is in flight")


def needs_full(params: SamplingParams) -> bool:
    """Whether a draw needs more than a temperature."""
    is_filtered = params.top_k > 0 or params.top_p < 1 or params.min_p > 0
    is_penalised = params.presence_penalty or params.frequency_penalty
    is_changed = bool(params.logit_bias) or params.repetition_penalty != 1 or bool(is_penalised)
    return is_filtered or is_changed or params.num_logprobs is not None


def most_logprobs(params: Collection[SamplingParams]) -> int | None:
    """The most that anybody asks for; None where nobody does."""
    asked = [one.num_logprobs for one in params if one.num_logprobs is not None]
    return max(asked, default=None)


def _check_end(sequence: SequenceState, result: RowResult, reason: FinishReason | None) -> None:
    if result.goes_on != (reason is None):
        here = "open" if reason is None else f"over ({reason})"
        there = "open" if result.goes_on else "over"
        raise RuntimeError(f"{_name(sequence)} is {here} for the host and {there} for the device")


def _name(sequence: SequenceState) -> str:
    return f"request {sequence.request.request_id}"
