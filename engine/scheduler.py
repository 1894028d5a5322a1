"""Scheduler: plain Python, no torch. Decides what each step computes.

There are no phases: every running sequence has tokens known and tokens computed, and one
number chases the other. Prefill in chunks, a prefix taken from a warm slot and decoding are the
same rule with different distances.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from engine.chunk_budget import ChunkBudget
from engine.request import FinishReason, Request, TokenLogprob, TokenOutput
from engine.sequence import SequenceState
from engine.slot_pool import MIN_PREFIX_LEN, PrefixMatch, SlotPool, common_prefix_len
from engine.step import Drawn, PrefixCopy, Step, StepResult, StepRow
from model.grammar import GrammarError, Matcher

TASK_SHARE = 0.2
"""Of the prompt tokens that may join a step beside rows that decode, tasks get so many: streams are
not to stutter because something is classified."""

MIN_TASK_TOKENS = 8


class Scheduler:
    """Owns every admitted request until its end, and the slot pool.

    First come, first served, lower ``priority`` before that. A request whose prompt begins like
    one that is being prefilled waits for it and copies the result, so n choices of one
    prompt compute it once. ``matcher_of`` compiles grammars, where there is a vocabulary.
    """

    def __init__(
        self,
        pool: SlotPool,
        context_len: int,
        vocab_size: int,
        eos_token_ids: Iterable[int] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pool = pool
        self.matcher_of: Callable[[str], Matcher] | None = None
        self._context_len = context_len
        self._vocab_size = vocab_size
        self._eos_token_ids = frozenset(eos_token_ids)
        self._clock = clock
        self._budget = ChunkBudget()
        self._waiting: list[SequenceState] = []
        self._running: list[SequenceState] = []
        self._by_id: dict[int, SequenceState] = {}

    @property
    def num_running(self) -> int:
        """Requests with a slot."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests without."""
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        """Whether the next step would compute anything."""
        return bool(self._by_id)

    def add(self, requests: Iterable[Request]) -> None:
        """Queue requests; ids must be new. Checks nothing else: the client has."""
        now_s = self._clock()
        for request in requests:
            if request.request_id in self._by_id:
                raise ValueError(f"request {request.request_id} is already here")
            sequence = SequenceState(request, arrived_s=now_s)
            if request.params.grammar:
                sequence.follow(self._matcher(request.params.grammar))
            self._by_id[request.request_id] = sequence
            bisect.insort(self._waiting, sequence, key=_order)

    def _matcher(self, grammar: str) -> Matcher:
        if self.matcher_of is None:
            raise GrammarError("this engine has no vocabulary to follow a grammar with")
        return self.matcher_of(grammar)

    def abort(self, request_ids: Iterable[int]) -> None:
        """Forget requests and free their slots. Unknown ids are ignored: they may have ended."""
        for request_id in request_ids:
            sequence = self._by_id.get(request_id)
            if sequence is not None:
                self._remove(sequence)

    def schedule(self) -> Step:
        """Decide the next step. Takes slots for admitted requests."""
        rows = [self._row(s, 1) for s in self._running if s.num_lacking == 1 and not s.is_task]
        prefilling = [s for s in self._running if s.num_lacking > 1 or s.is_task]
        budget = self._budget.tokens(len(rows))
        task_budget = max(MIN_TASK_TOKENS, int(TASK_SHARE * budget)) if rows else budget
        chunks = self._chunks(prefilling, budget, task_budget=task_budget)
        return Step(chunks.copies, (*rows, *chunks.rows))

    def _chunks(
        self,
        prefilling: Iterable[SequenceState],
        budget: int,
        max_rows: int | None = None,
        task_budget: int | None = None,
    ) -> Step:
        """``budget`` prompt tokens, at most: of those that run, then of those that wait.

        No more than ``task_budget`` of them are of tasks.
        """
        copies: list[PrefixCopy] = []
        rows: list[StepRow] = []
        room = _Room(budget, budget if task_budget is None else task_budget)
        for sequence in prefilling:
            if room.of(sequence) and len(rows) != max_rows:
                rows.append(self._row(sequence, room.of(sequence)))
                room.take(sequence, len(rows[-1].token_ids))
        for sequence in tuple(self._waiting):
            if not (room.budget and self.pool.num_available) or len(rows) == max_rows:
                break
            if not room.of(sequence):
                continue  # before the search below, which is long where many wait
            prefix = self.pool.longest_prefix(sequence.copyable_ids)
            if self._is_worth_waiting(sequence, prefix):
                continue
            copies += self._admit(sequence, prefix)
            rows.append(self._row(sequence, room.of(sequence)))
            room.take(sequence, len(rows[-1].token_ids))
        return Step(tuple(copies), tuple(rows))

    def _is_worth_waiting(self, sequence: SequenceState, prefix: PrefixMatch | None) -> bool:
        """Whether a running prefill will soon offer a longer prefix than is there now."""
        wanted = sequence.copyable_ids
        least = max(MIN_PREFIX_LEN, prefix.length + 1 if prefix else 0)
        return any(
            other.num_lacking > 1
            and not other.is_prefix_private
            and other.num_computed < common_prefix_len(other.token_ids, wanted) >= least
            for other in self._running
        )

    def _admit(self, sequence: SequenceState, prefix: PrefixMatch | None) -> list[PrefixCopy]:
        """Give a waiting request its slot, with the longest known prefix in it."""
        self._waiting.remove(sequence)
        bisect.insort(self._running, sequence, key=_order)
        sequence.slot = self.pool.take(prefix)
        sequence.admitted_s = self._clock()
        if prefix is None:
            return []
        sequence.num_computed = prefix.length
        sequence.num_cached = min(prefix.length, len(sequence.request.prompt_ids))
        self.pool.fill(sequence.slot, sequence.token_ids, prefix.length)
        if prefix.slot == sequence.slot:
            return []
        return [PrefixCopy(prefix.slot, sequence.slot, prefix.length)]

    def _row(self, sequence: SequenceState, budget: int) -> StepRow:
        start = sequence.num_computed
        end = min(start + budget, sequence.num_needed)
        is_drawn = end == len(sequence.token_ids) and sequence.request.params.max_tokens > 0
        return StepRow(
            request_id=sequence.request.request_id,
            slot=sequence.slot,
            start=start,
            token_ids=tuple(sequence.token_ids[start:end]),
            sampling=(
                sequence.sampling_state(self._eos_token_ids, self._vocab_size) if is_drawn else None
            ),
            scoring=sequence.scoring_state(start, end),
            task=sequence.request.task,
            is_classified=sequence.request.task is not None and end == len(sequence.token_ids),
        )

    def update(self, step: Step, result: StepResult, step_s: float) -> list[TokenOutput]:
        """Take in a step's result.

        Rows aborted since the step was scheduled are dropped. Finished requests leave their slot.
        """
        self._observe(step, step_s)
        now_s = self._clock()
        outputs = []
        tokens, scores, logits = iter(result.drawn), iter(result.scored), iter(result.classified)
        for row in step.rows:
            token = next(tokens) if row.sampling is not None else None
            scored = next(scores) if row.scoring is not None else ()
            classified = next(logits) if row.is_classified else ()
            sequence = self._by_id.get(row.request_id)
            if sequence is None:
                continue
            sequence.num_computed += len(row.token_ids)
            if not sequence.is_prefix_private:
                self.pool.fill(sequence.slot, sequence.token_ids, sequence.num_computed)
            if scored or not sequence.num_lacking:
                reason = self._append(sequence, token, now_s)
                output = self._output(sequence, token, scored, reason, now_s)
                outputs.append(
                    msgspec.structs.replace(output, logits=classified) if classified else output
                )
        return outputs

    def _observe(self, step: Step, step_s: float) -> None:
        prompt_rows = [len(row.token_ids) for row in step.rows if len(row.token_ids) > 1]
        self._budget.observe(len(step.rows) - len(prompt_rows), sum(prompt_rows), step_s)

    def _output(
        self,
        sequence: SequenceState,
        token: Drawn | None,
        scored: tuple[TokenLogprob, ...],
        reason: FinishReason | None,
        now_s: float,
    ) -> TokenOutput:
        """What a step brought a sequence, which leaves where there is a ``reason``."""
        if reason is not None:
            self._remove(sequence)
        return TokenOutput(
            request_id=sequence.request.request_id,
            token_ids=() if token is None else (token.token_id,),
            logprobs=_logprobs(token),
            prompt_logprobs=scored,
            finish_reason=reason,
            num_cached_tokens=sequence.num_cached,
            times=None if reason is None else sequence.times(now_s),
        )

    def _append(
        self, sequence: SequenceState, token: Drawn | None, now_s: float
    ) -> FinishReason | None:
        """Take in the drawn token, if there is one; whether that ended the sequence."""
        if token is None:
            return None if sequence.num_lacking else FinishReason.LENGTH
        sequence.append(token.token_id)
        if sequence.first_token_s is None:
            sequence.first_token_s = now_s
        return sequence.finish_reason(self._eos_token_ids, self._context_len)

    def _remove(self, sequence: SequenceState) -> None:
        del self._by_id[sequence.request.request_id]
        if sequence.slot < 0:
            self._waiting.remove(sequence)
            return
        self._running.remove(sequence)
        self._release(sequence)

    def _release(self, sequence: SequenceState) -> None:
        """Nobody needs the slot any more."""
        self.pool.release(sequence.slot)

    def check_integrity(self) -> None:
        """Raise AssertionError unless requests and slots agree, each held by exactly one."""
        self.pool.check_integrity()
        if len(self._by_id) != len(self._waiting) + len(self._running):
            raise AssertionError("a request is neither waiting nor running, or both")
        if len({s.slot for s in self._running}) != self.pool.num_held:
            raise AssertionError("running requests and held slots differ")


@dataclass(slots=True)
class _Room:
    """Prompt tokens that a step has room for, and how many of them for tasks."""

    budget: int
    task_budget: int

    def of(self, sequence: SequenceState) -> int:
        """What is left for it."""
        return min(self.budget, self.task_budget) if sequence.is_task else self.budget

    def take(self, sequence: SequenceState, num_tokens: int) -> None:
        """So many are its."""
        self.budget -= num_tokens
        if sequence.is_task:
            self.task_budget -= num_tokens


def _logprobs(token: Drawn | None) -> tuple[TokenLogprob, ...]:
    if token is None or token.logprob is None:
        return ()
    return (TokenLogprob(token.logprob, token.top),)


def _order(sequence: SequenceState) -> tuple[int, int]:
    return sequence.order
