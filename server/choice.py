"""One choice of an answer while it grows: outputs of the engine in, deltas out."""

from __future__ import annotations

import time

from engine.errors import EngineError
from engine.request import FinishReason, RequestTimes, TokenLogprob, TokenOutput
from server.delta import Delta, detail_of
from server.echo import PromptEcho
from server.metrics import Metrics
from server.plan import ChoicePlan, Plan
from server.text import TextStream
from server.vocabulary import Vocabulary


class Choice:
    """Turns one request's outputs into deltas. Knows when a stop string has ended it."""

    def __init__(
        self, choice: ChoicePlan, plan: Plan, vocabulary: Vocabulary, metrics: Metrics, now_s: float
    ) -> None:
        self.index = choice.index
        self.prompt_index = choice.prompt_index
        self.is_ended = False
        self.num_tokens = 0
        self.num_cached_tokens = 0
        self.times: RequestTimes | None = None
        self.outcome: str | None = None
        self._vocabulary = vocabulary
        self._metrics = metrics
        self._has_ids = plan.has_token_ids
        self._ending_ids = plan.ending_ids
        self._echo = PromptEcho(choice.prompt_ids, plan.request, vocabulary)
        self._num_top = choice.params.num_logprobs or 0
        self._include_stop = plan.request.include_stop_str_in_output
        self._text = TextStream(
            plan.stops,
            include_stop=self._include_stop,
            min_tokens=choice.params.min_tokens,
        )
        self._seed = choice.params.seed
        self._last_output_s = now_s
        self._pending = Delta(choice.index, self._seed, choice.prompt_ids)

    def take(self) -> Delta | None:
        """The growth since the last call, if there is any to show."""
        delta = self._pending
        has_more = delta.text or delta.details or delta.prompt_tokens
        if not (has_more or delta.is_last or (self._has_ids and delta.token_ids)):
            return None
        self._pending = Delta(self.index, self._seed)
        return delta

    def feed(self, output: TokenOutput) -> None:
        """Take one output. Tokens after the one that completes a stop string are dropped."""
        self.num_cached_tokens = max(self.num_cached_tokens, output.num_cached_tokens)
        self._time(output)
        self._echo.feed(output.prompt_logprobs, self._text, self._pending)
        self._metrics.on_scored(len(output.prompt_logprobs))
        num_before = self.num_tokens
        for position, token_id in enumerate(output.token_ids):
            is_ending = (
                output.finish_reason is FinishReason.STOP
                and position == len(output.token_ids) - 1
                and token_id in self._ending_ids  # a grammar may end with a token of its text
            )
            logprob = output.logprobs[position] if output.logprobs else None
            self._feed_token(token_id, logprob, has_text=self._include_stop or not is_ending)
            if self._text.is_stopped:
                break
        num_kept = self.num_tokens - num_before
        self._metrics.on_tokens(num_kept, len(output.token_ids) - num_kept)
        if self._text.is_stopped:
            self._end(FinishReason.STOP)
        elif output.finish_reason is not None:
            self._end(output.finish_reason)

    def fail(self, error: EngineError) -> None:
        """The request is lost: what was held back is released, and the error ends it."""
        if not self.is_ended:
            self._pending.text += self._text.end()
            self._pending.error = error
            self.is_ended = True
            self.outcome = "error"
            self._metrics.on_finish(self.outcome, self.num_tokens)

    def give_up(self) -> None:
        """Nobody reads on."""
        if not self.is_ended:
            self._end(FinishReason.ABORT)

    def _feed_token(self, token_id: int, logprob: TokenLogprob | None, *, has_text: bool) -> None:
        offset = self._text.num_chars
        self.num_tokens += 1
        self._pending.token_ids.append(token_id)
        data = self._vocabulary.token_bytes(token_id) if has_text else b""
        self._pending.text += self._text.push(data)
        if logprob is not None:
            detail = detail_of(token_id, logprob, self._num_top, offset, self._vocabulary)
            self._pending.details.append(detail)

    def _end(self, reason: FinishReason) -> None:
        self._pending.text += self._text.end()
        self._pending.finish_reason = FinishReason.STOP if self._text.is_stopped else reason
        self.is_ended = True
        self.outcome = self._pending.finish_reason.value
        self._metrics.on_finish(self.outcome, self.num_tokens)

    def _time(self, output: TokenOutput) -> None:
        now_s = time.perf_counter()
        if output.token_ids:
            self._metrics.on_output(
                now_s - self._last_output_s, len(output.token_ids), is_first=self.num_tokens == 0
            )
            self._last_output_s = now_s
        if output.times is not None:
            self.times = output.times
            self._metrics.on_times(output.times)
