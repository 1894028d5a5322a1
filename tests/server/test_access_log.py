"""One line a request, with what it took, on every way it can end."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest

from engine.errors import QueueFull
from tests.server.conftest import client_of, make_app, serving
from tests.server.fake_engine import EOS_ID, FakeEngine

BODY = {"prompt": ["abc", "d"], "max_tokens": 5, "n": 2}


def lines_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The fields of each access line so far; without those of waiting for the model."""
    names = (
        "method route status duration_s error_code client_left prompt_tokens completion_tokens "
        "cached_tokens choices finish_reasons engine_ids queue_s prefill_s decode_s"
    )
    return [
        {name: getattr(record, name) for name in names.split() if hasattr(record, name)}
        for record in caplog.records
        if record.name == "server.access" and getattr(record, "route", "") != "/ready"
    ]


@pytest.fixture(autouse=True)
def _listen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="server.access")


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_completion_says_what_it_took(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, is_stream: bool
) -> None:
    await client.post("/v1/completions", json={**BODY, "stream": is_stream})
    (line,) = lines_of(caplog)
    assert 0 < line.pop("duration_s") < 10
    assert line == {
        "method": "POST",
        "route": "/v1/completions",
        "status": 200,
        "prompt_tokens": 4,
        "completion_tokens": 20,
        "cached_tokens": 3,
        "choices": 4,
        "finish_reasons": {"length": 4},
        "engine_ids": [0, 1, 2, 3],
        "queue_s": 0.001,
        "prefill_s": 0.002,
        "decode_s": 0.003,
    }


async def test_reasons_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    def script(prompt_ids: Any, params: Any) -> list[int]:
        return [65, 66, EOS_ID] if params.choice_index else [67] * params.max_tokens

    async with client_of(make_app(FakeEngine(script=script))) as client:
        await client.post("/v1/completions", json={"prompt": "a", "n": 3, "stop": "CCC"})
    (line,) = lines_of(caplog)
    assert line["finish_reasons"] == {"stop": 3}
    assert line["completion_tokens"] == 3 + 2 * 3


async def test_scores_are_requests_too(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await client.post("/v1/score", json={"input": {"context": "ab", "continuation": "c"}})
    (line,) = lines_of(caplog)
    assert (line["prompt_tokens"], line["completion_tokens"], line["choices"]) == (3, 0, 1)
    assert line["finish_reasons"] == {"length": 1}


async def test_a_refusal_says_its_code_and_nothing_of_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client_of(make_app(FakeEngine(refusal=QueueFull("full", 1.0)))) as client:
        await client.post("/v1/completions", json={"prompt": "a"})
        await client.post("/v1/completions", json={"prompt": "a", "n": -1})
        await client.post("/v1/completions", content="a" * 10, headers={"Content-Length": "9" * 9})
        await client.get("/made/up")
        await client.delete("/health")
    lines = lines_of(caplog)
    assert [(line["status"], line["error_code"], line["route"]) for line in lines] == [
        (429, "queue_full", "/v1/completions"),
        (400, "invalid_value", "/v1/completions"),
        (413, "body_too_large", "unmatched"),
        (404, "not_found", "unmatched"),
        (405, "method_not_allowed", "/health"),
    ]
    assert not any("prompt_tokens" in line for line in lines)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_client_that_leaves_is_said_to_have_left(
    caplog: pytest.LogCaptureFixture, is_stream: bool
) -> None:
    engine = FakeEngine(gate=asyncio.Semaphore(3))
    async with serving(make_app(engine)) as address:
        host, port = address.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps({"prompt": "a", "max_tokens": 20, "stream": is_stream}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        while engine.gate is None or not engine.gate.locked():
            await asyncio.sleep(0.001)
        writer.close()
        await engine.was_aborted.wait()
    (line,) = lines_of(caplog)
    assert line["client_left"] is True
    assert line["finish_reasons"] == {"abort": 1}
    assert line["completion_tokens"] == 3
    assert "decode_s" not in line


async def test_a_lost_request_is_an_error_also_after_its_status(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client_of(make_app(FakeEngine(fail_after=2))) as client:
        await client.post("/v1/completions", json={"prompt": "a", "stream": True})
        await client.post("/v1/completions", json={"prompt": "a"})
    streamed, plain = lines_of(caplog)
    assert (streamed["status"], streamed["finish_reasons"]) == (200, {"error": 1})
    assert (plain["status"], plain["error_code"]) == (503, "request_failed")


async def test_probes_that_succeed_are_told_to_debuggers_only(
    client: httpx.AsyncClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    for path in ("/health", "/ready", "/metrics"):
        await client.get(path)
    engine.is_ready = False
    await client.get("/ready")
    levels = [record.levelname for record in caplog.records if record.name == "server.access"]
    assert levels == ["DEBUG", "DEBUG", "DEBUG", "INFO"]
