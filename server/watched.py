"""An answer that takes its time: it watches for its client to leave, and cleans up after it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.access_log import AccessRecord, Work, record_of
from server.generation import Generation, Reader
from server.metrics import Metrics
from server.sse import UsageBody

QUICK_ANSWER_TOKENS = 1_024
"""With so many log probabilities an answer is written in some milliseconds."""


async def written(write: Callable[[], bytes], num_logprobs: int) -> bytes:
    """What ``write`` returns; a large answer is written in a thread, beside the streams."""
    return write() if num_logprobs <= QUICK_ANSWER_TOKENS else await asyncio.to_thread(write)


class WatchedAnswer(Response, ABC):
    """Sends an answer while the engine works on it.

    Whatever ends it, a lost client and a stopped server included, the engine's requests are
    aborted by a plain call: an await could be cancelled a second time.
    """

    def __init__(self, metrics: Metrics, generation: Generation[Reader]) -> None:
        super().__init__()
        self._metrics = metrics
        self._generation = generation
        self._has_left = False

    @abstractmethod
    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything. Raises ApiError where nothing was sent yet."""

    @abstractmethod
    def on_end(self) -> None:
        """It was sent, or failed, or nobody reads on."""

    @abstractmethod
    def usage(self) -> UsageBody:
        """The tokens so far, for the log."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        watch = asyncio.create_task(self._watch(receive))
        try:
            await self.respond(scope, receive, send)
        finally:
            watch.cancel()
            self._generation.close()
            self.on_end()
            self._describe(record_of(scope))

    def _describe(self, record: AccessRecord) -> None:
        usage = self.usage()
        record.has_left = self._has_left
        record.work = Work(
            num_prompt_tokens=usage.prompt_tokens,
            num_completion_tokens=usage.completion_tokens,
            num_cached_tokens=usage.prompt_tokens_details.cached_tokens,
            finished=self._generation.choices,
            engine_ids=self._generation.engine_ids,
        )

    async def _watch(self, receive: Receive) -> None:
        """Neither kind of handler is told of a client that left unless it listens."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._has_left = True
        self._metrics.on_disconnect()
        self._generation.close()

    async def send_body(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """A whole JSON answer, unless nobody is there to read it."""
        response = Response(body, media_type="application/json")
        if self._has_left:
            response = Response(status_code=499)  # for the metrics; nobody reads it
        await response(scope, receive, send)
