"""A client that leaves, over a real connection: nothing of its request goes on, on any route."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.server.conftest import make_app, serving
from tests.server.fake_engine import FakeEngine
from tests.server.test_classify import engine_with

COMPLETION = {"prompt": "ab", "max_tokens": 50, "n": 2}
SCORE = {"input": [{"context": "a", "continuation": "b"}, {"context": "a", "continuation": "c"}]}

ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("/v1/completions", COMPLETION),
    "stream": ("/v1/completions", {**COMPLETION, "stream": True}),
    "echo": ("/v1/completions", {**COMPLETION, "echo": True, "logprobs": 1, "max_tokens": 0}),
    "echo in a stream": (
        "/v1/completions",
        {**COMPLETION, "echo": True, "prompt_logprobs": 1, "stream": True},
    ),
    "score": ("/v1/score", SCORE),
    "classify": ("/v1/classify", {"model": "sentiment", "input": ["a", "b"]}),
}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """It takes everything, and brings nothing."""

    async def never(*_args: object) -> bool:
        await asyncio.get_running_loop().create_future()
        return True

    monkeypatch.setattr(FakeEngine, "_score", never)
    engine = engine_with("sentiment")
    engine.gate = asyncio.Semaphore(0)
    return engine


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
async def test_everything_that_it_asked_for_is_aborted(
    engine: FakeEngine, asked: tuple[str, dict[str, Any]]
) -> None:
    """Readers of a stream leave by a reset, the others by an end."""
    route, fields = asked
    body = json.dumps(fields).encode()
    head = f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    async with serving(make_app(engine)) as address, asyncio.timeout(10):
        url = httpx.URL(address)
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while len(engine.submitted) < 2:
            await asyncio.sleep(0.005)
        if fields.get("stream"):
            writer.transport.abort()
        else:
            writer.close()
        while len(engine.aborted) < 2:
            await engine.was_aborted.wait()
            await asyncio.sleep(0)
    assert sorted(engine.aborted) == [0, 1]


async def test_one_that_leaves_before_its_body_is_whole_has_asked_for_nothing(
    engine: FakeEngine,
) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    async with (
        serving(make_app(engine)) as address,
        httpx.AsyncClient(base_url=address) as client,
        asyncio.timeout(10),
    ):
        url = httpx.URL(address)
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(head + b'Content-Length: 500\r\n\r\n{"prompt": "a"')
        await writer.drain()
        writer.close()
        counted = ""
        while 'status="499"' not in counted:
            counted = (await client.get("/metrics")).text
    assert engine.submitted == []
