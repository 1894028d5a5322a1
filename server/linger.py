"""Linger: an answer that comes before its request has ended, so that the client gets to read it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LINGER_S = 5.0


class Linger:
    """Takes in, and drops, what is left of a body before the connection may be closed.

    A socket that is closed with bytes unread resets the connection, and a client that is still
    sending would see that and no 413. Bounded by ``linger_s`` seconds. Such an answer is the last
    on its connection: what might come after it would be taken for the rest of the body.
    """

    def __init__(self, app: ASGIApp, linger_s: float = LINGER_S) -> None:
        self._app = app
        self._linger_s = linger_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or not _has_body(scope["headers"]):
            await self._app(scope, receive, send)
            return
        is_read = False
        is_futile = _is_awaited(scope["headers"])

        async def watched() -> Message:
            nonlocal is_read, is_futile
            is_futile = False
            message = await receive()
            is_read = not message.get("more_body", False)
            return message

        async def send_and_drain(message: Message) -> None:
            nonlocal is_futile
            if message["type"] == "http.response.start" and not is_read:
                is_futile = is_futile or message["status"] == HTTPStatus.REQUEST_TIMEOUT
                MutableHeaders(scope=message)["Connection"] = "close"
            is_last = message["type"] == "http.response.body" and not message.get("more_body")
            if is_read or is_futile or not is_last:
                await send(message)
                return
            await send({**message, "more_body": True})
            with suppress(TimeoutError):
                async with asyncio.timeout(self._linger_s):
                    while not is_read:
                        await watched()
            await send({"type": "http.response.body"})

        await self._app(scope, watched, send_and_drain)


def _is_awaited(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the client sends its body only when it is told to; after a refusal none comes."""
    return any(name == b"expect" and value.lower() == b"100-continue" for name, value in headers)


def _has_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in headers
    )
