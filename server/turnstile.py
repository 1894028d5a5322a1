"""Turnstile: requests that arrive together begin one after another."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

RUN_S = 0.002
"""So long requests begin without a pause while the engine computes."""

PAUSE_S = 0.001


class Turnstile:
    """Lets one request begin in each pass of the event loop; a lone one does not wait.

    From its first byte to its admission a request runs without a pause, some half a
    millisecond. Of sixty that arrive at once the loop would make one block, and every stream
    would stand still behind it. Between two turns the loop reads its sockets, so what the
    engine has brought meanwhile is sent on. While the engine ``is_busy``, turns are interrupted
    by pauses: where both share the processors, the system would otherwise let the engine wait for
    the end of the burst, some twenty milliseconds.
    """

    def __init__(self, app: ASGIApp, is_busy: Callable[[], bool]) -> None:
        self._app = app
        self._is_busy = is_busy
        self._is_free = True
        self._began_s = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            await self._turn()
        await self._app(scope, receive, send)

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        if self._is_free:
            self._is_free = False
            self._began_s = time.perf_counter()
            self._begin(loop)
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """The one whose turn it is runs before what is called soon."""
        loop.call_soon(self._end, loop)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = time.perf_counter()
        if not self._waiting:
            self._is_free = True
        elif now_s - self._began_s > RUN_S and self._is_busy():
            loop.call_later(PAUSE_S, self._go_on, loop)
        else:
            self._next(loop)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """After a pause."""
        self._began_s = time.perf_counter()
        self._next(loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # its client may have left
                turn.set_result(None)
                self._begin(loop)
                return
        self._is_free = True
