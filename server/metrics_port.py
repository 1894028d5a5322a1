"""MetricsPort: /metrics on a listener of its own, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import ApiError, error_response, short
from server.metrics import CONTENT_TYPE


class MetricsPort:
    """Answers what comes in at ``port`` by itself, without a key: who reaches it may read it.

    The port is that of the socket, which no header can pretend.
    """

    def __init__(self, app: ASGIApp, port: int, render: Callable[[], bytes]) -> None:
        self._app = app
        self._port = port
        self._render = render
        self._route = Route("/metrics", self._show)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        server = scope.get("server")
        if scope["type"] != "http" or server is None or server[1] != self._port:
            await self._app(scope, receive, send)
            return
        await self._answer(scope)(scope, receive, send)

    def _answer(self, scope: Scope) -> ASGIApp:
        if scope["path"] != "/metrics":
            told = f"there is only /metrics at this port, got {short(scope['path'])}"
            return error_response(ApiError(404, told, code="not_found"))
        if scope["method"] not in {"GET", "HEAD"}:
            told = f"/metrics does not take {short(scope['method'])}"
            return error_response(ApiError(405, told, code="method_not_allowed"), {"Allow": "GET"})
        scope["route"] = self._route  # for the log, which is to call it as on the other port
        return self._route.app

    async def _show(self, _request: Request) -> Response:
        return Response(self._render(), media_type=CONTENT_TYPE)
