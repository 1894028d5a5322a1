"""A server that ends well: it says so, finishes what runs, and drops nobody who has just come."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FrameType
from typing import cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

GRACE_S = 2
"""What uvicorn grants answers beyond our own bound, to say that they end."""

QUIET_S = 1.0
"""How long a connection without a request may stay: its first bytes may be on their way."""

FAREWELL_S = 0.3
"""After a second signal: time for the answers that end to be sent."""

POLL_S = 0.02


class Server(uvicorn.Server):
    """Ends in this order, and says ``on_draining`` first.

    1. For ``drain_s`` seconds, if a signal ended it, everything is served as before, so that a
       proxy may see it coming. Every answer closes its connection.
    2. It listens no more. Connections that wait to be accepted are served, not reset.
    3. What runs is finished. After ``shutdown_s`` seconds ``on_overdue`` ends the answers that
       still run, as answers do; clients that do not even take that are cut ``GRACE_S`` later.

    A second signal skips whatever of this is left.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        shutdown_s: int,
        on_overdue: Callable[[], None],
        drain_s: float = 0.0,
        on_draining: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        config.timeout_graceful_shutdown = shutdown_s + GRACE_S
        self._shutdown_s = shutdown_s
        self._on_overdue = on_overdue
        self._drain_s = drain_s
        self._on_draining = on_draining
        self._was_told = False
        self._is_urgent = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends the server, the second one at once."""
        if self.should_exit and self._loop is not None:
            self._loop.call_soon_threadsafe(self._is_urgent.set)
        self._was_told = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, and wait for what runs."""
        self._on_draining()
        self.server_state.default_headers = [
            *self.server_state.default_headers,
            (b"connection", b"close"),
        ]
        loop = asyncio.get_running_loop()
        hurry = loop.create_task(self._hurry())
        timer: asyncio.TimerHandle | None = None
        try:
            if self._was_told:
                await self._wait(self._drain_s)
            await self._stop_listening(sockets or [])
            timer = loop.call_later(self._shutdown_s, self._on_overdue)
            await self._until_quiet()
            await super().shutdown(sockets)
        finally:
            hurry.cancel()
            if timer is not None:
                timer.cancel()

    async def _wait(self, delay_s: float) -> None:
        """So long, or until a second signal."""
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._is_urgent.wait()

    async def _hurry(self) -> None:
        """On a second signal: answers end now, and who does not take that is cut."""
        await self._is_urgent.wait()
        self._on_overdue()
        await asyncio.sleep(FAREWELL_S)
        self.force_exit = True
        for connection in self._connections():
            connection.transport.abort()

    async def _stop_listening(self, sockets: Iterable[socket.socket]) -> None:
        """Close the listeners, but serve what the kernel has accepted for us meanwhile."""
        waiting: list[socket.socket] = []
        kept = [sock.dup() for sock in sockets]  # the loop closes its own
        for server in self.servers:
            server.close()
        for sock in kept:
            with sock:
                waiting += accept_waiting(sock)
        loop = asyncio.get_running_loop()
        for sock in waiting:
            await loop.connect_accepted_socket(self._new_connection, sock)

    def _new_connection(self) -> asyncio.Protocol:
        """As uvicorn makes them for what its own listeners accept."""
        make = cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class)
        return make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def _until_quiet(self) -> None:
        """Give those a moment who are connected and have not asked yet: they may be about to."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + QUIET_S
        while any(map(is_idle, self._connections())) and loop.time() < end_s:
            if self._is_urgent.is_set():
                return
            await asyncio.sleep(POLL_S)

    def _connections(self) -> list[HttpToolsProtocol]:
        return cast("list[HttpToolsProtocol]", list(self.server_state.connections))


def is_idle(connection: HttpToolsProtocol) -> bool:
    """Whether nothing is being answered on it."""
    return connection.cycle is None or connection.cycle.response_complete


def accept_waiting(listener: socket.socket) -> list[socket.socket]:
    """The connections that nobody has accepted so far; ``listener`` does not block."""
    waiting: list[socket.socket] = []
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:  # none is left, or there is no descriptor for it
            return waiting
        sock.setblocking(False)
        waiting.append(sock)
