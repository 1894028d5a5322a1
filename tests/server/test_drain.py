"""A server that ends: who has just come is served, what runs is finished, or it ends now."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from server.drain import Server
from server.wire import HttpProtocol
from tests.server.conftest import make_app
from tests.server.fake_engine import FakeEngine

ASK = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Running:
    server: Server
    sockets: list[socket.socket]
    address: tuple[str, int]
    ended: asyncio.Task[None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.address[1]}"


@asynccontextmanager
async def running(
    engine: FakeEngine, drain_s: float = 0.0, shutdown_s: int = 30
) -> AsyncIterator[Running]:
    app: FastAPI = make_app(engine)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sockets, address = [listener], listener.getsockname()
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, loop="none", http=HttpProtocol
        )
        server = Server(
            config,
            shutdown_s,
            lambda: engine.fail_all("it is stopping"),
            drain_s,
            app.state.serving.drain,
        )
        ended = asyncio.create_task(server._serve(sockets))
        async with httpx.AsyncClient() as client:
            while (await client.get(f"http://127.0.0.1:{address[1]}/ready")).status_code != 200:
                await asyncio.sleep(0.01)
        try:
            yield Running(server, sockets, address, ended)
        finally:
            server.should_exit = True
            server._is_urgent.set()
            await ended


async def ask(sock: socket.socket) -> bytes:
    """The beginning of what comes back."""
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, ASK)
    return await loop.sock_recv(sock, 2**16)


async def test_a_connection_that_nobody_has_accepted_is_served() -> None:
    """The kernel has, for us: closing the listener would reset it."""
    async with running(FakeEngine()) as made:
        with socket.create_connection(made.address) as sock:  # and the loop has not turned since
            await made.server._stop_listening(made.sockets)
            made.sockets.clear()
            answer = await ask(sock)
    assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_a_connection_that_has_not_asked_yet_is_served_and_then_closed() -> None:
    async with running(FakeEngine()) as made:
        with socket.create_connection(made.address) as sock:
            await asyncio.sleep(0)
            while not made.server.server_state.connections:
                await asyncio.sleep(0.01)
            made.server.should_exit = True
            while made.server.servers[0].is_serving():
                await asyncio.sleep(0.01)
            answer = await ask(sock)
        await made.ended
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in answer.lower()


async def test_an_idle_connection_does_not_hold_the_end_up() -> None:
    async with running(FakeEngine(), shutdown_s=60) as made, httpx.AsyncClient() as client:
        await client.get(f"{made.url}/health")
        made.server.should_exit = True
        async with asyncio.timeout(20):
            await made.ended


@pytest.mark.parametrize("is_second", [False, True])
async def test_while_it_drains_all_but_ready_is_as_before_until_a_second_signal(
    *, is_second: bool
) -> None:
    engine = FakeEngine(gate=asyncio.Semaphore(0))
    drain_s = 60.0 if is_second else 0.1
    async with (
        running(engine, drain_s=drain_s, shutdown_s=60) as made,
        httpx.AsyncClient() as client,
    ):
        body = {"prompt": "a", "max_tokens": 3}
        url = f"{made.url}/v1/completions"
        request = asyncio.create_task(client.post(url, json=body))
        while not engine.submitted:
            await asyncio.sleep(0.01)
        made.server.handle_exit(signal.SIGTERM, None)
        if is_second:
            while (await client.get(f"{made.url}/ready")).status_code != 503:
                await asyncio.sleep(0.01)
            answer = await client.get(f"{made.url}/health")
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            made.server.handle_exit(signal.SIGTERM, None)
        else:
            for _ in range(3):
                assert engine.gate is not None
                engine.gate.release()
        async with asyncio.timeout(20):
            await made.ended
        assert (await request).status_code == (503 if is_second else 200)
