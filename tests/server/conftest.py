"""A server under test: in process for most, on a real port where the wire matters."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from server.app import create_app
from server.drain import Server
from server.settings import Settings
from server.sockets import prepare
from server.vocabulary import Tokenizer
from server.wire import HttpProtocol
from tests.server.fake_engine import VOCAB_SIZE, FakeEngine


class ByteTokenizer:
    """256 bytes, then the bytes of some characters and words that need several of them."""

    EXTRA = (*(f" w{i}".encode() for i in range(38)), "é".encode(), "🙂".encode(), b"", b"")

    vocab_size = VOCAB_SIZE

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token_id: int, /) -> bytes:
        if token_id == VOCAB_SIZE - 1:
            return b"<|endoftext|>"
        if 0 <= token_id < 256:
            return bytes([token_id])
        if token_id - 256 < len(self.EXTRA) and self.EXTRA[token_id - 256]:
            return self.EXTRA[token_id - 256]
        raise KeyError(token_id)


def make_app(engine: FakeEngine, *, has_text: bool = True, **options: Any) -> FastAPI:
    settings = Settings(checkpoint=Path("tiny"), **options)

    def load(_checkpoint: Path) -> Tokenizer | None:
        return ByteTokenizer() if has_text else None

    return create_app(settings, engine, tokenizer_loader=load)


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """In process, with the model loaded. A fault of the server is an exception of the test."""
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            while (await client.get("/ready")).status_code != 200:
                await asyncio.sleep(0)
            yield client


@asynccontextmanager
async def serving(
    app: FastAPI, *, shutdown_s: int = 30, on_overdue: Callable[[], None] = lambda: None
) -> AsyncIterator[str]:
    """The address of a real uvicorn on a free loopback port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        prepare(listener, 60)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, loop="none", http=HttpProtocol
        )
        server = Server(config, shutdown_s, on_overdue)
        task = asyncio.create_task(server._serve([listener]))
        async with httpx.AsyncClient() as client:
            while (await client.get(f"{address}/ready")).status_code != 200:
                await asyncio.sleep(0.01)
        try:
            yield address
        finally:
            server.should_exit = True
            await task


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def client(engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app(engine)) as made:
        yield made
