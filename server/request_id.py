"""The outermost layer: an id for each request, its answer counted, our own faults caught."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.access_log import record_of
from server.errors import ApiError, error_response
from server.logs import REQUEST_ID
from server.metrics import Metrics

logger = logging.getLogger(__name__)

VALID_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def request_id(headers: Headers) -> str:
    """The client's own X-Request-Id where it is valid, otherwise a new one."""
    given = headers.get("x-request-id", "")
    return given if VALID_ID.fullmatch(given) else uuid.uuid4().hex


class RequestScope:
    """Echoes X-Request-Id on every answer, and turns what nobody expected into a logged 500.

    The id is in every line that is logged meanwhile, and the request is a line itself.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrived_s = time.perf_counter()
        own_id = request_id(Headers(scope=scope))
        token = REQUEST_ID.set(own_id)
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = own_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:  # the server stops, and this took longer than it waits
            if status is None:
                told = ApiError(503, "the server is stopping", code="shutting_down")
                await error_response(told)(scope, receive, send_with_id)
        except Exception:
            logger.exception("request %s failed", own_id)
            if status is not None:
                raise  # half an answer is out: the server closes the connection
            told = ApiError(500, "the server failed; its log says more", code="internal_error")
            await error_response(told)(scope, receive, send_with_id)
        finally:
            self._tell(scope, status, time.perf_counter() - arrived_s)
            REQUEST_ID.reset(token)

    def _tell(self, scope: Scope, status: int | None, duration_s: float) -> None:
        route = _route(scope)
        record_of(scope).write(route, status, duration_s)
        if status is not None:
            self._metrics.on_response(route, status, duration_s)


def _route(scope: Scope) -> str:
    """The template of the route; one word for all paths that have none."""
    path: str = getattr(scope.get("route"), "path", "unmatched")
    return path
