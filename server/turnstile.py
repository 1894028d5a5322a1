"""Turnstile: requests that arrive together begin one after another."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

MAX_PATIENT = 32
"""Where more than so many wait, there are no pauses: nobody is to wait long for a refusal."""


class Turnstile:
    """Lets one request begin in each pass of the event loop; a lone one does not wait.

    From its first byte to its admission a request runs without a pause, some half a
    millisecond. Of sixty that arrive at once the loop would make one block, and every stream
    would stand still behind it. Between two turns the loop reads its sockets, so what the
    engine has brought meanwhile is sent on. While the engine ``is_busy``, a turn is followed
    by a pause as long as itself: where both share the processors, steps are held up less.
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
            self._begin(loop)
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """The one whose turn it is runs before what is called soon."""
        self._began_s = time.perf_counter()
        loop.call_soon(self._end, loop)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._waiting and len(self._waiting) <= MAX_PATIENT and self._is_busy():
            loop.call_later(time.perf_counter() - self._began_s, self._next, loop)
        else:
            self._next(loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # its client may have left
                turn.set_result(None)
                self._begin(loop)
                return
        self._is_free = True
