"""What every answer says to browsers: take it for what it is, and frame, keep or leak nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ApiError, error_response

SECURITY_HEADERS: Sequence[tuple[bytes, bytes]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
"""For answers that do not say otherwise themselves."""

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


class SecurityHeaders:
    """Adds SECURITY_HEADERS to every answer, where it has none of that name."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                names = {name.lower() for name, _ in headers}
                missing = [header for header in SECURITY_HEADERS if header[0] not in names]
                message = {**message, "headers": [*headers, *missing]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


def page_policy(page: str) -> str:
    """The Content-Security-Policy of a page that fetches from here only.

    Its own scripts and styles are allowed by their hashes, so nothing that gets into the page
    by another way is run.
    """
    allowed: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in _INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        allowed[kind].append(f"'sha256-{digest}'")
    sources = [f"{kind}-src {' '.join(hashes)}" for kind, hashes in allowed.items() if hashes]
    rules = ["default-src 'none'", "connect-src 'self'", *sources]
    rules += ["base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    return "; ".join(rules)


class Cors(CORSMiddleware):
    """Lets pages of the named origins ask; what it refuses has our form. No cookies, ever."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", "X-Request-Id"),
            expose_headers=("X-Request-Id", "Retry-After"),
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a browser that asks beforehand."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        told = f"another origin may not ask this: {bytes(response.body).decode()}"
        kept = {name: response.headers[name] for name in ("vary",) if name in response.headers}
        return error_response(ApiError(400, told, code="cors_refused"), kept)
