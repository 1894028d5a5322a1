"""SequenceState: a request between its admission and its last token. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from engine.request import FinishReason, Request, RequestTimes
from engine.step import SamplingState


@dataclass(slots=True, eq=False)
class SequenceState:
    """Mutable, owned by the scheduler.

    ``token_ids`` are the prompt and all that was generated; keys and values of the first
    ``num_computed`` are in ``slot``. Times are seconds of the scheduler's clock.
    """

    request: Request
    arrived_s: float
    token_ids: list[int] = field(default_factory=list)
    num_computed: int = 0
    num_cached: int = 0
    slot: int = -1
    admitted_s: float = 0.0
    first_token_s: float | None = None

    def __post_init__(self) -> None:
        self.token_ids = [*self.request.prompt_ids, *self.request.emitted_ids]

    @property
    def order(self) -> tuple[int, int]:
        """Who is served first."""
        return self.request.priority, self.request.request_id

    @property
    def num_lacking(self) -> int:
        """Tokens known but not computed: 1 while decoding, more before."""
        return len(self.token_ids) - self.num_computed

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
        return SamplingState(
            params=params,
            token_index=self.output_len,
            prompt_ids=self.request.prompt_ids if needs_prompt else (),
            output_ids=tuple(self.token_ids[num_prompt:]) if needs_output or needs_prompt else (),
            banned_ids=self._banned_ids(eos_token_ids, vocab_size),
        )

    def _banned_ids(self, eos_token_ids: Collection[int], vocab_size: int) -> tuple[int, ...]:
        """Ending tokens, while there are fewer than ``min_tokens``; never the whole vocabulary."""
        if self.output_len >= self.request.params.min_tokens:
            return ()
        ending = {*self.request.params.stop_token_ids, *eos_token_ids}
        return tuple(sorted(ending)) if len(ending) < vocab_size else ()

    def finish_reason(
        self, eos_token_ids: Collection[int], context_len: int
    ) -> FinishReason | None:
        """Whether the last token ended the sequence.

        The last drawn token needs no position, so one more than ``context_len`` are possible.
        """
        params, last = self.request.params, self.token_ids[-1]
        if last in params.stop_token_ids or (last in eos_token_ids and not params.ignore_eos):
            return FinishReason.STOP
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
