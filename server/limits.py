"""What a request may take before its route sees it: bytes of header and body, and time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ApiError, error_response, short

OnRefused = Callable[[str], None]
"""Hears the code of each refusal."""


class HeaderLimit:
    """Refuses with 431 what has too many bytes in its path, query and headers.

    Headers that are not even complete by then are refused in ``server/wire.py``.
    """

    def __init__(self, app: ASGIApp, max_header_bytes: int, on_refused: OnRefused) -> None:
        self._app = app
        self._max_header_bytes = max_header_bytes
        self._on_refused = on_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        num_bytes = header_bytes(scope) if scope["type"] == "http" else 0
        if num_bytes <= self._max_header_bytes:
            await self._app(scope, receive, send)
            return
        rule = f"path, query and headers must have at most {self._max_header_bytes} bytes"
        self._on_refused("header_too_large")
        told = ApiError(431, f"{rule}, got {num_bytes}", code="header_too_large")
        await error_response(told)(scope, receive, send)


def header_bytes(scope: Scope) -> int:
    """Bytes of an HTTP request before its body, about."""
    target = len(scope.get("raw_path") or scope["path"]) + len(scope.get("query_string", b""))
    return target + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


class BodyLimit:
    """Refuses with 413 by the Content-Length, and counts what has none or lies.

    A body that does not come within ``body_timeout_s`` seconds is refused with 408.
    """

    def __init__(
        self, app: ASGIApp, max_body_bytes: int, body_timeout_s: float, on_refused: OnRefused
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s
        self._on_refused = on_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and self._is_over(value):
                told = f"Content-Length is {short(value.decode('latin-1'))}"
                await error_response(self._too_large(told))(scope, receive, send)
                return
        await self._app(scope, self._bounded(receive), send)

    def _bounded(self, receive: Receive) -> Receive:
        """``receive`` that raises ApiError for too many bytes, or bytes too late."""
        end_s = asyncio.get_running_loop().time() + self._body_timeout_s
        num_bytes = 0
        has_more = True

        async def bounded() -> Message:
            nonlocal num_bytes, has_more
            if not has_more:
                return await receive()  # it tells of a client that leaves, however late
            try:
                async with asyncio.timeout_at(end_s):
                    message = await receive()
            except TimeoutError:
                raise self._too_late(num_bytes) from None
            has_more = message.get("more_body", False)
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_body_bytes:
                raise self._too_large(f"{num_bytes} have come and there are more")
            return message

        return bounded

    def _is_over(self, digits: bytes) -> bool:
        """Whether a Content-Length says too much; one that says nothing is left to counting."""
        return digits.isdigit() and (len(digits) > 18 or int(digits) > self._max_body_bytes)

    def _too_large(self, found: str) -> ApiError:
        self._on_refused("body_too_large")
        rule = f"the body must have at most {self._max_body_bytes} bytes"
        return ApiError(413, f"{rule}; {found}", code="body_too_large")

    def _too_late(self, num_bytes: int) -> ApiError:
        self._on_refused("request_timeout")
        rule = f"the body must come within {self._body_timeout_s:g} seconds"
        return ApiError(408, f"{rule}; {num_bytes} bytes have", code="request_timeout")
