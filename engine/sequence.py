"""SequenceState: a request between its admission and its last token. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from engine.request import FinishReason, Request, RequestTimes
from engine.step import SamplingState, ScoringState
from model.grammar import Matcher


@dataclass(slots=True, eq=False)
class SequenceState:
    """Mutable, owned by the scheduler.

    ``token_ids`` are the prompt and all that was generated; keys and values of the first
    ``num_computed`` are in ``slot``. ``matcher`` is where
    the output stands in its grammar. Times are seconds of the scheduler's clock.
    """

    request: Request
    arrived_s: float
    token_ids: list[int] = field(default_factory=list)
    num_computed: int = 0
    num_cached: int = 0
    slot: int = -1
    admitted_s: float = 0.0
    first_token_s: float | None = None
    matcher: Matcher | None = None

    def __post_init__(self) -> None:
        self.token_ids = [*self.request.prompt_ids, *self.request.emitted_ids]

    @property
    def order(self) -> tuple[int, int]:
        """Who is served first."""
        return self.request.priority, self.request.request_id

    @property
    def num_needed(self) -> int:
        """Tokens to compute before the next draw, or before the end where nothing is drawn."""
        if self.request.params.max_tokens or self.is_task:
            return len(self.token_ids)
        return max(1, len(self.token_ids) - 1)  # nothing is predicted from the last

    @property
    def num_lacking(self) -> int:
        """Tokens needed but not computed: 1 while decoding, more before."""
        return self.num_needed - self.num_computed

    @property
    def copyable_ids(self) -> list[int]:
        """The tokens that may be copied from a known prefix instead of computed.

        All but the last needed; and before one that is asked about, its prediction is needed too.
        """
        if self.is_prefix_private:
            return []
        end = self.num_needed - 1
        if self._is_scored:
            end = min(end, self.request.params.scored_from - 1)
        return self.token_ids[:end]

    @property
    def is_task(self) -> bool:
        """Whether it is classified instead of continued."""
        return self.request.task is not None

    @property
    def is_prefix_private(self) -> bool:
        """Whether its keys and values are of no use to others."""
        task = self.request.task
        return task is not None and task.is_prefix_private

    @property
    def _is_scored(self) -> bool:
        params = self.request.params
        is_wanted = params.num_prompt_logprobs is not None
        return is_wanted and params.scored_from < len(self.request.prompt_ids)

    @property
    def output_len(self) -> int:
        """Tokens generated, by an earlier engine too."""
        return len(self.token_ids) - len(self.request.prompt_ids)

    def sampling_state(self, eos_token_ids: Collection[int], vocab_size: int) -> SamplingState:
        """What the sampler needs for the next token."""
        params = self.request.params
        needs_output = params.presence_penalty or params.frequency_penalty
        needs_prompt = params.repetition_penalty != 1
        num_prompt = len(self.request.prompt_ids)
        banned_ids = self._banned_ids(eos_token_ids, vocab_size)
        return SamplingState(
            params=params,
            token_index=self.output_len,
            prompt_ids=self.request.prompt_ids if needs_prompt else (),
            output_ids=tuple(self.token_ids[num_prompt:]) if needs_output or needs_prompt else (),
            banned_ids=() if self.matcher else banned_ids,
            allowed=self.matcher.without(banned_ids) if self.matcher else None,
        )

    def scoring_state(self, start: int, end: int) -> ScoringState | None:
        """What is asked about the tokens that follow those from ``start`` to ``end``."""
        params, prompt_ids = self.request.params, self.request.prompt_ids
        first = max(start + 1, params.scored_from)
        target_ids = prompt_ids[first : end + 1]
        if params.num_prompt_logprobs is None or not target_ids:
            return None
        return ScoringState(first - 1 - start, target_ids, params.num_prompt_logprobs)

    def _banned_ids(self, eos_token_ids: Collection[int], vocab_size: int) -> tuple[int, ...]:
        """Ending tokens, while there are fewer than ``min_tokens``; never the whole vocabulary."""
        if self.output_len >= self.request.params.min_tokens:
            return ()
        ending = {*self.request.params.stop_token_ids, *eos_token_ids}
        return tuple(sorted(ending)) if len(ending) < vocab_size else ()

    def follow(self, matcher: Matcher) -> None:
        """The output keeps to a grammar, what an earlier engine generated too."""
        for token_id in self.request.emitted_ids:
            matcher.take(token_id)
        self.matcher = matcher

    def append(self, token_id: int) -> None:
        """A token was drawn."""
        self.token_ids.append(token_id)
        if self.matcher is not None:
            self.matcher.take(token_id)

    def finish_reason(
        self, eos_token_ids: Collection[int], context_len: int
    ) -> FinishReason | None:
        """Whether the last token ended the sequence.

        The last drawn token needs no position, so one more than ``context_len`` are possible.
        """
        params, last = self.request.params, self.token_ids[-1]
        if last in params.stop_token_ids or (last in eos_token_ids and not params.ignore_eos):
            return FinishReason.STOP
        if self.matcher is not None and self.matcher.is_complete:
            return FinishReason.STOP
        if self.matcher is not None and self.matcher.is_failed:
            return FinishReason.LENGTH
        if self.output_len >= params.max_tokens or len(self.token_ids) > context_len:
            return FinishReason.LENGTH
        return None

    def times(self, now_s: float) -> RequestTimes:
        """How long it waited, prefilled and decoded, for a sequence that ends at ``now_s``."""
        first_s = now_s if self.first_token_s is None else self.first_token_s
        return RequestTimes(
            queue_s=self.admitted_s - self.arrived_s,
            prefill_s=first_s - self.admitted_s,
            decode_s=now_s - first_s,
        )
