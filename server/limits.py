"""BodyLimit: no request body larger than the setting, counted while it comes in."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ApiError, error_response, short


class BodyLimit:
    """Refuses with 413 by the Content-Length, and counts what has none or lies."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

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
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_body_bytes:
                raise self._too_large(f"{num_bytes} have come and there are more")
            return message

        await self._app(scope, counted, send)

    def _is_over(self, digits: bytes) -> bool:
        """Whether a Content-Length says too much; one that says nothing is left to counting."""
        return digits.isdigit() and (len(digits) > 18 or int(digits) > self._max_body_bytes)

    def _too_large(self, found: str) -> ApiError:
        rule = f"the body must have at most {self._max_body_bytes} bytes"
        return ApiError(413, f"{rule}; {found}", code="body_too_large")
