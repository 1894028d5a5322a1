"""Generation: all choices of one request, read from the engine as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from engine.errors import EngineError
from engine.request import FinishReason, RequestTimes, TokenOutput
from server.deadline import Deadline
from server.delta import Delta
from server.seams import OutputStream


class Reader(Protocol):
    """What the outputs of one request are made into; ``server.choice.Choice`` is one."""

    is_ended: bool
    times: RequestTimes | None
    """What the engine says of it at its end; None where it was ended from here."""
    outcome: str | None
    """A finish reason or ``error``, once it has ended."""

    def take(self) -> Delta | None:
        """The growth since the last call, if there is any to show."""

    def feed(self, output: TokenOutput) -> None:
        """Take one output."""

    def fail(self, error: EngineError) -> None:
        """The request is lost."""

    def give_up(self) -> None:
        """Nobody reads on."""


AnyReader_co = TypeVar("AnyReader_co", bound=Reader, covariant=True)


class Generation(Generic[AnyReader_co]):
    """Reads each stream in a task of its own and hands on what there is, joined.

    The plain answer and the event stream are both readers of this. ``max_unread`` (tokens and
    log probabilities) bounds what a reader may leave unread: beyond it every choice that has
    not ended is aborted. None: no bound, for a reader that keeps everything anyway.
    What has not ended at the ``deadline`` ends then with ``timeout``: here and not in the engine,
    so that it holds also for a request that waits for a dead engine to come back.
    """

    def __init__(
        self,
        choices: Sequence[AnyReader_co],
        streams: Sequence[OutputStream],
        max_unread: int | None,
        deadline: Deadline,
    ) -> None:
        self.choices = choices
        self.deadline = deadline
        self._streams = streams
        self._max_unread = max_unread
        self._num_unread = 0
        self._changed = asyncio.Event()
        self._is_closed = False
        self._pumps = [
            asyncio.create_task(self._pump(choice, stream))
            for choice, stream in zip(choices, streams, strict=True)
        ]
        self._timer = asyncio.get_running_loop().call_at(deadline.at_s, self._expire)

    async def next_deltas(self, timeout_s: float | None = None) -> list[Delta] | None:
        """Growth of one or more choices; none after ``timeout_s`` without any; None at the end."""
        while True:
            self._changed.clear()
            deltas = [delta for choice in self.choices if (delta := choice.take()) is not None]
            if deltas:
                self._num_unread = 0
                return deltas
            if self._is_closed or all(pump.done() for pump in self._pumps):
                self._raise_faults()
                return None
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
            except TimeoutError:
                return []

    def close(self) -> None:
        """Abort whatever runs. A plain call, for any ``finally``; safe twice."""
        self._is_closed = True
        self._timer.cancel()
        for stream in self._streams:
            stream.abort()
        for pump in self._pumps:
            pump.cancel()
        for choice in self.choices:
            choice.give_up()
        self._changed.set()

    def _expire(self) -> None:
        """The deadline has passed; the readers get what had come, and the reason."""
        for stream in self._streams:
            stream.abort(FinishReason.TIMEOUT)

    @property
    def engine_ids(self) -> list[int]:
        """What the engine calls these requests."""
        return [stream.request_id for stream in self._streams]

    @property
    def is_ended(self) -> bool:
        """Whether every choice has its finish reason or error."""
        return all(choice.is_ended for choice in self.choices)

    def _raise_faults(self) -> None:
        """Let a fault of our own in a pump come out, instead of an answer without an end."""
        for pump in self._pumps:
            if pump.done() and not pump.cancelled():
                pump.result()

    async def _pump(self, choice: Reader, stream: OutputStream) -> None:
        try:
            async for output in stream:
                choice.feed(output)
                self._changed.set()
                self._bound_unread(output)
                if choice.is_ended:
                    return
        except EngineError as error:
            choice.fail(error)
        finally:
            stream.abort()
            self._changed.set()

    def _bound_unread(self, output: TokenOutput) -> None:
        self._num_unread += len(output.token_ids)
        logprobs = (*output.logprobs, *output.prompt_logprobs)
        self._num_unread += sum(1 + len(logprob.top) for logprob in logprobs)
        if self._max_unread is not None and self._num_unread > self._max_unread:
            self.close()
