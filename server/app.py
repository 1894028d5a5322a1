"""create_app: the one place where the parts of the server are put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from pathlib import Path

from fastapi import FastAPI

from engine.messages import ModelInfo
from model.tokenizer import Tokenizer, VocabularyMissing
from server.classify import classify_routes
from server.completions import completion_routes
from server.errors import install
from server.headers import Cors, SecurityHeaders
from server.limits import BodyLimit, HeaderLimit
from server.linger import Linger
from server.metrics import Metrics
from server.metrics_port import MetricsPort
from server.models import model_routes
from server.ops import ops_routes
from server.page import page_routes
from server.request_id import RequestScope
from server.score import score_routes
from server.seams import Engine
from server.security import KeyGate
from server.settings import Settings
from server.state import LoadTokenizer, ServerState
from server.tokens import token_routes
from server.turnstile import Turnstile
from server.wire import LIMITS, WireLimits


def load_tokenizer(checkpoint: Path) -> Tokenizer | None:
    """The checkpoint's tokenizer; None if it has no vocabulary. Raises TokenizerError."""
    try:
        return Tokenizer.from_directory(checkpoint)
    except VocabularyMissing:
        return None


def server_version() -> str:
    """The installed distribution's version."""
    try:
        return distribution_version("gpt2-server")
    except PackageNotFoundError:
        return "unknown"


def wire_limits(settings: Settings, metrics: Metrics) -> WireLimits:
    """What ``server.wire.HttpProtocol`` is handed through the lifespan's state."""
    return WireLimits(
        max_connections=settings.max_connections,
        max_header_bytes=settings.max_header_bytes,
        header_timeout_s=settings.header_timeout_s,
        send_timeout_s=settings.send_timeout_s,
        on_refused=metrics.on_rejection,
    )


def create_app(
    settings: Settings,
    engine: Engine,
    *,
    tokenizer_loader: LoadTokenizer = load_tokenizer,
    on_ready: Callable[[ModelInfo], None] = lambda _info: None,
    on_failure: Callable[[list[str]], None] = lambda _problems: None,
) -> FastAPI:
    """One server. ``engine`` is started and closed by the caller, in the app's event loop.

    The app answers at once, with 503 where the model is needed, and calls ``on_ready`` when
    it is loaded, or ``on_failure`` with the problems when it never will be. ``app.state.serving``
    is its ServerState.
    """
    version = server_version()
    metrics = Metrics(settings.model_names[0], version, settings.latency_buckets)
    state = ServerState(settings, engine, tokenizer_loader, metrics, version)
    engine.on_stats.append(metrics.on_stats)

    async def bring_up() -> None:
        loaded = await state.load()
        if isinstance(loaded, ModelInfo):
            on_ready(loaded)
        else:
            on_failure(loaded)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, WireLimits]]:
        task = asyncio.create_task(bring_up())
        yield {LIMITS: wire_limits(settings, metrics)}
        task.cancel()

    app = FastAPI(
        title="gpt2-server",
        version=version,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # It would hand bodies to OpenTelemetry, where the environment has set that up.
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    app.state.serving = state
    install(app, metrics.on_rejection)
    add_layers(app, settings, state)
    for routes in (
        *(completion_routes, score_routes, classify_routes),
        *(token_routes, model_routes, ops_routes),
    ):
        app.include_router(routes(state))
    app.include_router(page_routes())
    return app


def add_layers(app: FastAPI, settings: Settings, state: ServerState) -> None:
    """What a request passes before its route, the last one first."""
    metrics = state.metrics
    app.add_middleware(
        BodyLimit,
        max_body_bytes=settings.max_body_bytes,
        body_timeout_s=settings.body_timeout_s,
        on_refused=metrics.on_rejection,
    )
    app.add_middleware(KeyGate, keys=settings.keys)
    if settings.metrics_port is not None:
        render = partial(metrics.render, state.engine)
        app.add_middleware(MetricsPort, port=settings.metrics_port, render=render)
    app.add_middleware(
        HeaderLimit,
        max_header_bytes=settings.max_header_bytes,
        on_refused=metrics.on_rejection,
    )
    app.add_middleware(Linger)
    if settings.cors_origin:
        app.add_middleware(Cors, origins=settings.cors_origin)
    app.add_middleware(RequestScope, metrics=metrics)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Turnstile, is_busy=lambda: state.engine.stats.num_running > 0)
