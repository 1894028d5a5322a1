"""Bytes of answers: completion objects and the events of a stream, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from server.delta import Delta, PromptToken, TokenDetail
from server.errors import error_body, from_engine

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
EVENTS = (
    "With stream: events `data: ` and an object as of a plain answer, with what its choices grew "
    "by, or an error; then `data: [DONE]`."
)


class LogprobsBody(msgspec.Struct, frozen=True):
    """One entry a token in each list.

    The first token of an echoed prompt has null twice; so has an impossible one, once (minus
    infinity is no JSON).
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[Mapping[str, float] | None]
    text_offset: list[int]


class PromptLogprobBody(msgspec.Struct, frozen=True):
    """What ``prompt_logprobs`` says of one token id."""

    logprob: float | None
    decoded_token: str


class ChoiceBody(msgspec.Struct, frozen=True):
    """One choice, whole or a part of it."""

    index: int
    text: str
    logprobs: LogprobsBody | None
    finish_reason: str | None
    seed: int
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    prompt_token_ids: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET
    prompt_logprobs: list[dict[str, PromptLogprobBody] | None] | msgspec.UnsetType = msgspec.UNSET


class PromptDetailsBody(msgspec.Struct, frozen=True):
    """``prompt_tokens_details``. Tokens that were cut off are counted where that was asked for."""

    cached_tokens: int
    truncated_tokens: int | msgspec.UnsetType = msgspec.UNSET


class UsageBody(msgspec.Struct, frozen=True):
    """Exact counts; a prompt counts once, however many choices it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetailsBody


class CompletionBody(msgspec.Struct, frozen=True):
    """A whole answer, or one event."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChoiceBody]
    usage: UsageBody | msgspec.UnsetType | None = msgspec.UNSET
    object: str = "text_completion"


@dataclass(frozen=True, slots=True)
class Shown:
    """Which parts of its choices an answer shows."""

    token_ids: bool = False
    logprobs: bool = False
    prompt_logprobs: bool = False


def choice_body(delta: Delta, shown: Shown) -> ChoiceBody:
    """A delta, or several joined, as JSON shows it."""
    prompt_ids = delta.prompt_ids if shown.token_ids else None
    prompt_tokens = [_prompt_body(tokens) for tokens in delta.prompt_tokens]
    return ChoiceBody(
        index=delta.index,
        text=delta.text,
        logprobs=_logprobs_body(delta.details) if shown.logprobs else None,
        finish_reason=delta.finish_reason.value if delta.finish_reason else None,
        seed=delta.seed,
        token_ids=delta.token_ids if shown.token_ids else msgspec.UNSET,
        prompt_token_ids=msgspec.UNSET if prompt_ids is None else prompt_ids,
        prompt_logprobs=prompt_tokens if shown.prompt_logprobs else msgspec.UNSET,
    )


def _prompt_body(tokens: tuple[PromptToken, ...] | None) -> dict[str, PromptLogprobBody] | None:
    if tokens is None:
        return None
    return {str(one.token_id): PromptLogprobBody(one.logprob, one.label) for one in tokens}


def _logprobs_body(details: list[TokenDetail]) -> LogprobsBody:
    return LogprobsBody(
        tokens=[detail.label for detail in details],
        token_logprobs=[detail.logprob for detail in details],
        top_logprobs=[detail.top for detail in details],
        text_offset=[detail.text_offset for detail in details],
    )


class EventWriter:
    """Writes events; what all of one answer share is encoded once, into a frame around them."""

    def __init__(self, frame: CompletionBody, shown: Shown, *, has_usage: bool) -> None:
        body = msgspec.structs.replace(
            frame, choices=[], usage=None if has_usage else msgspec.UNSET
        )
        self._frame = frame
        self._head, self._tail = msgspec.json.encode(body).split(b'"choices":[]')
        self._encoder = msgspec.json.Encoder()
        self._shown = shown

    def event(self, delta: Delta) -> bytes:
        """One delta; an error is an event of its own, after what came before it."""
        if delta.error is None:
            return self._choice_event(delta)
        error = b"data: %b\n\n" % error_body(from_engine(delta.error))
        return (self._choice_event(delta) if delta.has_growth else b"") + error

    def usage_event(self, usage: UsageBody) -> bytes:
        """The last event before the end mark: no choice, and the usage."""
        body = msgspec.structs.replace(self._frame, choices=[], usage=usage)
        return b"data: %b\n\n" % self._encoder.encode(body)

    def _choice_event(self, delta: Delta) -> bytes:
        choice = self._encoder.encode(choice_body(delta, self._shown))
        parts = (self._head, choice, self._tail)
        return b'data: %b"choices":[%b]%b\n\n' % parts
