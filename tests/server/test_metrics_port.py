"""/metrics at a port of its own: there, and nowhere else."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import httpx
import pytest

from server.commands.serve import Service, listen
from server.settings import Settings
from tests.server.conftest import client_of, make_app
from tests.server.fake_engine import FakeEngine


@pytest.fixture
def ports() -> list[socket.socket]:
    return [listen("127.0.0.1", 0), listen("127.0.0.1", 0)]


async def test_it_is_served_there_and_nowhere_else(
    ports: list[socket.socket],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = FakeEngine()
    monkeypatch.setattr("engine.client.EngineClient", lambda *_args, **_options: engine)
    numbers = [port.getsockname()[1] for port in ports]
    settings = Settings(checkpoint=tmp_path, metrics_port=numbers[1], api_key=("k" * 16,))
    service = Service(settings, *ports)
    running = asyncio.create_task(service.run())
    told = ""
    while "metrics " not in told:
        await asyncio.sleep(0.01)
        told += capsys.readouterr().out
    main, metrics = (f"http://127.0.0.1:{number}" for number in numbers)
    assert f"metrics  {metrics}/metrics\n" in told
    headers = {"Authorization": f"Bearer {'k' * 16}", "Host": f"127.0.0.1:{numbers[1]}"}
    async with httpx.AsyncClient() as client:
        there = await client.get(f"{metrics}/metrics")
        again = await client.get(f"{metrics}/metrics")
        other = [await client.get(f"{metrics}{path}") for path in ("/health", "/v1/models", "/")]
        posted = await client.post(f"{metrics}/metrics")
        here = await client.get(f"{main}/metrics", headers=headers)
        health = await client.get(f"{main}/health")
    service._stop([], 0)
    await running
    assert there.status_code == 200
    assert "gpt2_engine_up" in there.text
    assert 'route="/metrics",status="200"' in again.text
    assert [answer.json()["error"]["code"] for answer in other] == ["not_found"] * 3
    assert posted.status_code == 405
    assert here.status_code == 404
    assert health.status_code == 200


async def test_it_is_not_among_the_routes_of_the_other_port() -> None:
    async with client_of(make_app(FakeEngine(), metrics_port=9_000)) as client:
        assert (await client.get("/metrics")).status_code == 404
        assert "/metrics" not in (await client.get("/openapi.json")).json()["paths"]
