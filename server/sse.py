"""Bytes of answers: completion objects and the events of a stream, in OpenAI's shape."""

from __future__ import annotations

import msgspec

from server.choice import Delta, TokenDetail
from server.errors import error_body, from_engine

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


class LogprobsBody(msgspec.Struct, frozen=True):
    """One entry a token in each list. An impossible token has null (minus infinity is no JSON)."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class ChoiceBody(msgspec.Struct, frozen=True):
    """One choice, whole or a part of it."""

    index: int
    text: str
    logprobs: LogprobsBody | None
    finish_reason: str | None
    seed: int
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    prompt_token_ids: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET


class CachedBody(msgspec.Struct, frozen=True):
    """``prompt_tokens_details``."""

    cached_tokens: int


class UsageBody(msgspec.Struct, frozen=True):
    """Exact counts; a prompt counts once, however many choices it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedBody


class CompletionBody(msgspec.Struct, frozen=True):
    """A whole answer, or one event."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChoiceBody]
    usage: UsageBody | msgspec.UnsetType | None = msgspec.UNSET
    object: str = "text_completion"


def choice_body(delta: Delta, *, has_token_ids: bool, has_logprobs: bool) -> ChoiceBody:
    """A delta, or several joined, as JSON shows it."""
    prompt_ids = delta.prompt_ids if has_token_ids else None
    return ChoiceBody(
        index=delta.index,
        text=delta.text,
        logprobs=_logprobs_body(delta.details) if has_logprobs else None,
        finish_reason=delta.finish_reason.value if delta.finish_reason else None,
        seed=delta.seed,
        token_ids=delta.token_ids if has_token_ids else msgspec.UNSET,
        prompt_token_ids=msgspec.UNSET if prompt_ids is None else prompt_ids,
    )


def _logprobs_body(details: list[TokenDetail]) -> LogprobsBody:
    return LogprobsBody(
        tokens=[detail.label for detail in details],
        token_logprobs=[detail.logprob for detail in details],
        top_logprobs=[detail.top for detail in details],
        text_offset=[detail.text_offset for detail in details],
    )


class EventWriter:
    """Writes events; what all of one answer share is encoded once, into a frame around them."""

    def __init__(
        self, frame: CompletionBody, *, has_token_ids: bool, has_logprobs: bool, has_usage: bool
    ) -> None:
        body = msgspec.structs.replace(
            frame, choices=[], usage=None if has_usage else msgspec.UNSET
        )
        self._frame = frame
        self._head, self._tail = msgspec.json.encode(body).split(b'"choices":[]')
        self._encoder = msgspec.json.Encoder()
        self._has_token_ids = has_token_ids
        self._has_logprobs = has_logprobs

    def event(self, delta: Delta) -> bytes:
        """One delta; an error is an event of its own, after what came before it."""
        if delta.error is None:
            return self._choice_event(delta)
        error = b"data: %b\n\n" % error_body(from_engine(delta.error))
        return (self._choice_event(delta) if delta.text or delta.token_ids else b"") + error

    def usage_event(self, usage: UsageBody) -> bytes:
        """The last event before the end mark: no choice, and the usage."""
        body = msgspec.structs.replace(self._frame, choices=[], usage=usage)
        return b"data: %b\n\n" % self._encoder.encode(body)

    def _choice_event(self, delta: Delta) -> bytes:
        choice = choice_body(
            delta, has_token_ids=self._has_token_ids, has_logprobs=self._has_logprobs
        )
        parts = (self._head, self._encoder.encode(choice), self._tail)
        return b'data: %b"choices":[%b]%b\n\n' % parts
