"""Answer: a completion on its way to one client, whole or as a stream of events."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.choice import Delta
from server.errors import from_engine
from server.generation import Generation
from server.plan import Plan
from server.sse import (
    DONE,
    PING,
    CachedBody,
    CompletionBody,
    EventWriter,
    UsageBody,
    choice_body,
)
from server.state import ServerState

EVENT_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # a proxy that collects events would undo them
]


@dataclass(frozen=True, slots=True)
class Answered:
    """What both forms of an answer are made from."""

    plan: Plan
    generation: Generation
    frame: CompletionBody

    @property
    def has_logprobs(self) -> bool:
        """Whether log probabilities were asked for."""
        return self.plan.request.logprobs is not None

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens that needed no computing; further choices copy their prompt anyway."""
        firsts = self.generation.choices[:: self.plan.request.n]
        return sum(choice.num_cached_tokens for choice in firsts)

    def usage(self) -> UsageBody:
        """Counts so far; exact once every choice has ended."""
        num_prompt = sum(map(len, self.plan.prompts))
        num_new = sum(choice.num_tokens for choice in self.generation.choices)
        cached = CachedBody(self.num_cached_tokens)
        return UsageBody(num_prompt, num_new, num_prompt + num_new, cached)


def new_frame(state: ServerState, fingerprint: str) -> CompletionBody:
    """An answer with nothing in it yet."""
    return CompletionBody(
        id=f"cmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=state.model_name,
        system_fingerprint=fingerprint,
        choices=[],
    )


class Answer(Response):
    """Sends an answer while it is generated, and watches for the client to leave.

    Whatever ends it, a lost client and a stopped server included, the engine's requests are
    aborted by a plain call: an await could be cancelled a second time.
    """

    def __init__(self, state: ServerState, answered: Answered, arrived_s: float) -> None:
        super().__init__()
        self._state = state
        self._answered = answered
        self._arrived_s = arrived_s
        self._has_left = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        watch = asyncio.create_task(self._watch(receive))
        is_stream = self._answered.plan.request.stream
        try:
            await (self._send_events if is_stream else self._send_whole)(scope, receive, send)
        finally:
            watch.cancel()
            self._answered.generation.close()
            self._state.metrics.on_completion(
                time.perf_counter() - self._arrived_s, self._answered.num_cached_tokens
            )

    async def _watch(self, receive: Receive) -> None:
        """Neither kind of handler is told of a client that left unless it listens."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._has_left = True
        self._state.metrics.on_disconnect()
        self._answered.generation.close()

    async def _send_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The folded stream. Raises ApiError if any choice failed."""
        folded: dict[int, Delta] = {}
        while (deltas := await self._answered.generation.next_deltas()) is not None:
            for delta in deltas:
                if delta.error is not None:
                    raise from_engine(delta.error)
                if delta.index in folded:
                    folded[delta.index].join(delta)
                else:
                    folded[delta.index] = delta
        if self._has_left:
            response = Response(status_code=499)  # for the metrics; nobody reads it
        else:
            body = self._whole([folded[index] for index in sorted(folded)])
            response = Response(body, media_type="application/json")
        await response(scope, receive, send)

    def _whole(self, deltas: list[Delta]) -> bytes:
        answered = self._answered
        choices = [
            choice_body(
                delta,
                has_token_ids=answered.plan.has_token_ids,
                has_logprobs=answered.has_logprobs,
            )
            for delta in deltas
        ]
        return msgspec.json.encode(
            msgspec.structs.replace(answered.frame, choices=choices, usage=answered.usage())
        )

    async def _send_events(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Each wake-up sends one body message with all events that are waiting."""
        answered = self._answered
        options = answered.plan.request.stream_options
        has_usage = options is not None and options.include_usage
        writer = EventWriter(
            answered.frame,
            has_token_ids=answered.plan.has_token_ids,
            has_logprobs=answered.has_logprobs,
            has_usage=has_usage,
        )
        await send({"type": "http.response.start", "status": 200, "headers": EVENT_HEADERS})
        ping_s = self._state.settings.ping_s
        while (deltas := await answered.generation.next_deltas(ping_s)) is not None:
            await _send_body(send, b"".join(map(writer.event, deltas)) or PING)
        usage = writer.usage_event(answered.usage()) if has_usage else b""
        await _send_body(send, usage + DONE, more_body=False)


async def _send_body(send: Send, body: bytes, *, more_body: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more_body})
