"""uvicorn as this server runs it: refusals in our form, and an end in time."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Callable

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.errors import ApiError, error_body

GRACE_S = 2
"""What uvicorn grants answers beyond our own bound, to say that they end."""


class HttpProtocol(HttpToolsProtocol):
    """What is not HTTP is refused in the form of every other refusal."""

    def send_400_response(self, msg: str) -> None:
        """Answer and hang up; no application has seen this request."""
        body = error_body(ApiError(400, msg, code="invalid_http"))
        head = (
            "HTTP/1.1 400 Bad Request\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\n"
            f"x-request-id: {uuid.uuid4().hex}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """No advice to install a WebSocket library whenever a client offers to upgrade."""


class Server(uvicorn.Server):
    """After ``shutdown_s`` seconds of stopping, ``on_overdue`` ends the answers that still run.

    They end as answers do. Those of clients that do not even take that are cut ``GRACE_S`` later.
    """

    def __init__(
        self, config: uvicorn.Config, shutdown_s: int, on_overdue: Callable[[], None]
    ) -> None:
        super().__init__(config)
        config.timeout_graceful_shutdown = shutdown_s + GRACE_S
        self._shutdown_s = shutdown_s
        self._on_overdue = on_overdue

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, and wait for what runs."""
        timer = asyncio.get_running_loop().call_later(self._shutdown_s, self._on_overdue)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()
