"""For those who run the server: /health, /ready, /version, /metrics, /docs."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from server.headers import page_policy
from server.metrics import CONTENT_TYPE
from server.openapi import KEYED, UNREAD, Schema, operation, text_operation
from server.state import ServerState

HEALTH: Schema = {
    "type": "object",
    "required": ["status"],
    "properties": {
        "status": {"type": "string"},
        "problems": {"type": "array", "items": {"type": "string"}},
    },
}
VERSION: Schema = {
    "type": "object",
    "required": ["version"],
    "properties": {"version": {"type": "string"}},
}


def ops_routes(state: ServerState) -> APIRouter:
    """The routes, for one app. None of them waits for the engine."""
    router = APIRouter()

    failed = {503: HEALTH}

    @router.get("/health", openapi_extra=operation(HEALTH, UNREAD, others=failed))
    async def health() -> Response:
        """200 unless the engine is given up; loading and restarting are not illness."""
        failure = state.engine.failure
        if failure is not None:
            return JSONResponse({"status": "failed", "problems": failure.problems}, 503)
        return JSONResponse({"status": "ok" if state.engine.is_up else "starting"})

    @router.get("/ready", openapi_extra=operation(HEALTH, UNREAD, others=failed))
    async def ready() -> Response:
        """200 while a request would start at once; 503 also when the server is about to end."""
        if state.is_ready:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready"}, 503, {"Retry-After": "1"})

    @router.get("/version", openapi_extra=operation(VERSION, (*UNREAD, *KEYED)))
    async def version() -> dict[str, Any]:
        """The version of the server."""
        return {"version": state.version}

    if state.settings.metrics_port is None:
        told = text_operation("text/plain", (*UNREAD, *KEYED, 403))

        @router.get("/metrics", response_class=Response, openapi_extra=told)
        async def metrics() -> Response:
            """Prometheus' text format."""
            return Response(state.metrics.render(state.engine), media_type=CONTENT_TYPE)

    page = files("server").joinpath("web", "docs.html").read_text(encoding="utf-8")
    page_headers = {"Content-Security-Policy": page_policy(page)}

    @router.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """The routes for people; the page reads /openapi.json and nothing else."""
        return Response(page, headers=page_headers, media_type="text/html")

    return router
