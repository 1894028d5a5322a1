"""Answer: a completion on its way to one client, whole or as a stream of events."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
from starlette.types import Receive, Scope, Send

from engine.request import FinishReason
from server.choice import Choice
from server.delta import Delta
from server.errors import ApiError, from_engine
from server.generation import Generation
from server.plan import Plan
from server.prompts import Prompt
from server.sse import (
    DONE,
    PING,
    CompletionBody,
    EventWriter,
    PromptDetailsBody,
    Shown,
    UsageBody,
    choice_body,
)
from server.state import ServerState
from server.watched import WatchedAnswer, written

EVENT_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # a proxy that collects events would undo them
]


@dataclass(frozen=True, slots=True)
class Answered:
    """What both forms of an answer are made from."""

    plan: Plan
    generation: Generation[Choice]
    frame: CompletionBody

    @property
    def shown(self) -> Shown:
        """What was asked for."""
        request = self.plan.request
        return Shown(
            token_ids=self.plan.has_token_ids,
            logprobs=request.logprobs is not None,
            prompt_logprobs=request.prompt_logprobs is not None,
        )

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens that needed no computing; further choices copy their prompt anyway."""
        firsts = self.generation.choices[:: self.plan.request.n]
        return sum(choice.num_cached_tokens for choice in firsts)

    def usage(self) -> UsageBody:
        """Counts so far; exact once every choice has ended."""
        num_prompt = sum(len(prompt.ids) for prompt in self.plan.prompts)
        num_new = sum(choice.num_tokens for choice in self.generation.choices)
        details = prompt_details(
            self.plan.prompts, self.num_cached_tokens, self.plan.request.truncate_prompt_tokens
        )
        return UsageBody(num_prompt, num_new, num_prompt + num_new, details)


def prompt_details(
    prompts: Iterable[Prompt], num_cached: int, truncate_prompt_tokens: int | None
) -> PromptDetailsBody:
    """How the prompts were treated."""
    if truncate_prompt_tokens is None:
        return PromptDetailsBody(num_cached)
    return PromptDetailsBody(num_cached, sum(prompt.num_truncated for prompt in prompts))


def new_frame(state: ServerState, fingerprint: str) -> CompletionBody:
    """An answer with nothing in it yet."""
    return CompletionBody(
        id=f"cmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=state.model_name,
        system_fingerprint=fingerprint,
        choices=[],
    )


def whole_body(answered: Answered, deltas: Iterable[Delta]) -> bytes:
    """The JSON of a plain answer; a delta a choice."""
    choices = [choice_body(delta, answered.shown) for delta in deltas]
    frame = msgspec.structs.replace(answered.frame, choices=choices, usage=answered.usage())
    return msgspec.json.encode(frame)


class Answer(WatchedAnswer):
    """Sends a completion while it is generated."""

    def __init__(self, state: ServerState, answered: Answered, arrived_s: float) -> None:
        super().__init__(state.metrics, answered.generation)
        self._state = state
        self._answered = answered
        self._arrived_s = arrived_s

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Whole, or as events."""
        if self._answered.plan.request.stream:
            await self._send_events(send)
        else:
            await self.send_body(await self._whole(), scope, receive, send)

    def on_end(self) -> None:
        """Every choice has ended, or nobody reads on."""
        self._state.metrics.on_completion(
            time.perf_counter() - self._arrived_s, self._answered.num_cached_tokens
        )

    def usage(self) -> UsageBody:
        """As the answer tells it."""
        return self._answered.usage()

    async def _whole(self) -> bytes:
        """The folded stream. Raises ApiError if any choice failed."""
        answered = self._answered
        folded: dict[int, Delta] = {}
        while (deltas := await answered.generation.next_deltas()) is not None:
            for delta in deltas:
                if delta.error is not None:
                    raise from_engine(delta.error)
                if delta.index in folded:
                    folded[delta.index].join(delta)
                else:
                    folded[delta.index] = delta
        if self._is_only_late(folded.values()):
            raise answered.generation.deadline.passed()
        deltas = [folded[index] for index in sorted(folded)]
        num_tokens = sum(len(delta.details) + len(delta.prompt_tokens) for delta in deltas)
        return await written(partial(whole_body, answered, deltas), num_tokens)

    def _is_only_late(self, deltas: Iterable[Delta]) -> bool:
        """Whether the deadline ended every choice before its first token."""
        is_late = all(delta.finish_reason is FinishReason.TIMEOUT for delta in deltas)
        return is_late and not any(
            choice.num_tokens for choice in self._answered.generation.choices
        )

    def _refusal(self, deltas: Sequence[Delta]) -> ApiError | None:
        """The status of a stream that ends before it has begun: nothing was sent, and ``deltas``
        are ends without anything else."""
        generation = self._answered.generation
        if not generation.is_ended or any(d.has_growth or not d.is_last for d in deltas):
            return None
        error = next((delta.error for delta in deltas if delta.error is not None), None)
        if error is not None:
            return from_engine(error)
        return generation.deadline.passed() if self._is_only_late(deltas) else None

    async def _send_events(self, send: Send) -> None:
        """Each wake-up sends one body message with all events that are waiting.

        Nothing is sent before there is something to say, so what fails until then has a status.
        """
        answered = self._answered
        options = answered.plan.request.stream_options
        has_usage = options is not None and options.include_usage
        writer = EventWriter(answered.frame, answered.shown, has_usage=has_usage)
        ping_s = self._state.settings.ping_s
        deltas = await answered.generation.next_deltas(ping_s)
        refusal = self._refusal(deltas or ())
        if refusal is not None:
            raise refusal
        await send({"type": "http.response.start", "status": 200, "headers": EVENT_HEADERS})
        while deltas is not None:
            await _send_body(send, b"".join(map(writer.event, deltas)) or PING)
            deltas = await answered.generation.next_deltas(ping_s)
        usage = writer.usage_event(answered.usage()) if has_usage else b""
        await _send_body(send, usage + DONE, more_body=False)


async def _send_body(send: Send, body: bytes, *, more_body: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more_body})
