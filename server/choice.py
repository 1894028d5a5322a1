"""One choice of an answer while it grows: outputs of the engine in, deltas out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from engine.errors import EngineError
from engine.request import FinishReason, TokenLogprob, TokenOutput
from server.metrics import Metrics
from server.plan import ChoicePlan, Plan
from server.text import TextStream
from server.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class TokenDetail:
    """A token as ``logprobs`` shows it. ``text_offset`` counts characters of this choice."""

    label: str
    text_offset: int
    logprob: float
    top: dict[str, float]


@dataclass(slots=True)
class Delta:
    """What a choice grew by. Joined deltas are the choice; see ``join``.

    Either ``finish_reason`` or ``error`` is set on the last one.
    """

    index: int
    seed: int
    prompt_ids: tuple[int, ...] | None = None
    """Only on the first one."""
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    details: list[TokenDetail] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: EngineError | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing comes after it."""
        return self.finish_reason is not None or self.error is not None

    def join(self, later: Delta) -> None:
        """Append ``later``, which comes next for the same choice."""
        self.text += later.text
        self.token_ids += later.token_ids
        self.details += later.details
        self.finish_reason = later.finish_reason
        self.error = later.error


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
        self._vocabulary = vocabulary
        self._metrics = metrics
        self._is_shown = bool(plan.has_token_ids or choice.params.num_logprobs is not None)
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
        is_visible = delta.text or delta.is_last or (self._is_shown and delta.token_ids)
        if not is_visible:
            return None
        self._pending = Delta(self.index, self._seed)
        return delta

    def feed(self, output: TokenOutput) -> None:
        """Take one output. Tokens after the one that completes a stop string are dropped."""
        self.num_cached_tokens = max(self.num_cached_tokens, output.num_cached_tokens)
        self._time(output)
        num_before = self.num_tokens
        for position, token_id in enumerate(output.token_ids):
            is_ending = (
                output.finish_reason is FinishReason.STOP and position == len(output.token_ids) - 1
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
            self._metrics.on_finish("error", self.num_tokens)

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
            self._pending.details.append(self._detail(token_id, logprob, offset))

    def _detail(self, token_id: int, logprob: TokenLogprob, offset: int) -> TokenDetail:
        label = self._vocabulary.label
        top = {label(top_id): value for top_id, value in logprob.top}
        top.setdefault(label(token_id), logprob.logprob)
        return TokenDetail(label(token_id), offset, logprob.logprob, top)

    def _end(self, reason: FinishReason) -> None:
        self._pending.text += self._text.end()
        self._pending.finish_reason = FinishReason.STOP if self._text.is_stopped else reason
        self.is_ended = True
        self._metrics.on_finish(self._pending.finish_reason.value, self.num_tokens)

    def _time(self, output: TokenOutput) -> None:
        now_s = time.perf_counter()
        if output.token_ids:
            self._metrics.on_output(
                now_s - self._last_output_s, len(output.token_ids), is_first=self.num_tokens == 0
            )
            self._last_output_s = now_s
        if output.times is not None:
            self._metrics.on_times(output.times)
