"""Over real connections: clients that leave, clients that do not read, OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import openai
import pytest

from tests.server.conftest import make_app, serving
from tests.server.fake_engine import FakeEngine


@pytest.fixture
def gated() -> FakeEngine:
    """Brings a token of each request only when its gate is released."""
    return FakeEngine(gate=asyncio.Semaphore(0))


def release(engine: FakeEngine, num_tokens: int) -> None:
    assert engine.gate is not None
    for _ in range(num_tokens):
        engine.gate.release()


async def submitted(engine: FakeEngine, count: int) -> None:
    while len(engine.submitted) < count:
        await asyncio.sleep(0.005)


async def metric(client: httpx.AsyncClient, line: str) -> float:
    text = (await client.get("/metrics")).text
    found = [row for row in text.splitlines() if row.startswith(line)]
    return float(found[0].rsplit(" ", 1)[1]) if found else 0.0


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("num_tokens", [0, 2])
async def test_a_client_that_leaves_aborts_its_requests(
    gated: FakeEngine, *, is_stream: bool, num_tokens: int
) -> None:
    """Without a task that listens, a plain handler never hears of it and generates to the end."""
    body = {"prompt": "a", "max_tokens": 50, "n": 2, "stream": is_stream}
    async with serving(make_app(gated)) as address, httpx.AsyncClient(base_url=address) as client:
        leaving = httpx.AsyncClient(base_url=address)
        request = asyncio.create_task(leaving.post("/v1/completions", json=body))
        await submitted(gated, 2)
        release(gated, 2 * num_tokens)
        request.cancel()
        await asyncio.wait([request])
        await leaving.aclose()
        async with asyncio.timeout(2):
            await gated.was_aborted.wait()
            while len(gated.aborted) < 2:
                await asyncio.sleep(0)
        assert await metric(client, "gpt2_client_disconnects_total") == 1
        assert (await client.get("/health")).status_code == 200
    assert sorted(gated.aborted) == [0, 1]


async def test_idle_streams_are_kept_alive_by_comments(gated: FakeEngine) -> None:
    body = {"prompt": "a", "max_tokens": 1, "stream": True}
    async with (
        serving(make_app(gated, ping_s=0.01)) as address,
        httpx.AsyncClient() as client,
        client.stream("POST", f"{address}/v1/completions", json=body) as answer,
    ):
        parts = answer.aiter_text()
        assert await anext(parts) == ": ping\n\n"
        release(gated, 1)
        assert "".join([part async for part in parts]).endswith("data: [DONE]\n\n")


async def test_a_client_that_stays_is_not_taken_for_one_that_left(gated: FakeEngine) -> None:
    body = {"prompt": "a", "max_tokens": 3, "stream": True}
    async with serving(make_app(gated)) as address, httpx.AsyncClient(base_url=address) as client:
        request = asyncio.create_task(client.post("/v1/completions", json=body))
        await submitted(gated, 1)
        release(gated, 3)
        assert (await request).text.endswith("data: [DONE]\n\n")
        await client.post("/v1/completions", json={**body, "prompt": 5})
        assert await metric(client, "gpt2_client_disconnects_total") == 0
    assert gated.aborted == []


async def test_a_reader_that_does_not_read_is_bounded() -> None:
    """Some hundred kilobytes fit into the sockets; the rest waits here, but not without end."""
    engine = FakeEngine()
    body = json.dumps(
        {"prompt": "a", "n": 1_000, "max_tokens": 64, "stream": True, "logprobs": 20, "stop": "#"}
    )
    async with serving(make_app(engine, max_unread_tokens=50, max_choices=1_000)) as address:
        host, port = address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1_024)
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        async with asyncio.timeout(10):
            await engine.was_aborted.wait()
            answer = b""
            while not answer.endswith(b"0\r\n\r\n"):
                answer += await reader.read(2**20)
        writer.close()
    reasons = answer.count(b'"finish_reason":"')
    assert reasons == 1_000
    assert b'"finish_reason":"abort"' in answer
    assert b"data: [DONE]" in answer


async def test_a_body_over_the_limit_is_refused_while_it_comes() -> None:
    num_sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal num_sent
        while num_sent < 10**8:
            num_sent += 2**16
            yield b" " * 2**16

    headers = {"content-type": "application/json"}
    async with (
        serving(make_app(FakeEngine(), max_body_bytes=100_000)) as address,
        httpx.AsyncClient(base_url=address) as client,
    ):
        declared = await client.post("/v1/completions", content=b" " * 100_001, headers=headers)
        counted = await client.post("/v1/completions", content=endless(), headers=headers)
        fitting = b'{"prompt": "a"}'.ljust(100_000)
        fine = await client.post("/v1/completions", content=fitting, headers=headers)
    assert declared.status_code == 413
    assert declared.json()["error"]["code"] == "body_too_large"
    assert counted.status_code == 413
    assert fine.status_code == 200


async def raw_answer(address: str, request: bytes) -> bytes:
    """What a client hears that sends all of its request before it listens."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    await writer.drain()
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("path", "limit", "status"),
    [("/v1/completions", 100_000, 413), ("/nope", 4_000_000, 404), ("/health", 4_000_000, 405)],
)
async def test_a_refusal_reaches_a_client_that_is_still_sending(
    path: str, limit: int, status: int
) -> None:
    """A connection closed with bytes unread is reset, and the answer lost with it."""
    body = b" " * 3_000_000
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    async with serving(make_app(FakeEngine(), max_body_bytes=limit)) as address:
        answer = await raw_answer(address, request)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert answer.endswith(b"}}")


async def test_what_is_no_http_is_refused_in_the_form_of_every_error() -> None:
    async with serving(make_app(FakeEngine())) as address:
        answer = await raw_answer(address, b"FOO / HTTP/1.1\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nx-request-id: " in head
    assert json.loads(body)["error"]["code"] == "invalid_http"


async def test_an_offer_to_upgrade_is_not_worth_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    offer = "Upgrade: websocket\r\nConnection: Upgrade, close\r\n"
    async with serving(make_app(FakeEngine())) as address:
        url = httpx.URL(address)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(f"GET /health HTTP/1.1\r\nHost: x\r\n{offer}\r\n".encode())
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        writer.close()
    assert capsys.readouterr().err == ""


async def test_what_a_stopping_server_does_not_wait_for_ends_as_answers_do(
    gated: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that has begun by an event, the others by a status."""
    body = {"prompt": "a", "max_tokens": 50}
    began = asyncio.Event()

    async def read(client: httpx.AsyncClient, url: str) -> str:
        text = ""
        async with client.stream("POST", url, json={**body, "stream": True}) as answer:
            async for part in answer.aiter_text():
                text += part
                began.set()
        return text

    async with httpx.AsyncClient() as client:
        async with serving(
            make_app(gated), shutdown_s=0, on_overdue=lambda: gated.fail_all("it is stopping")
        ) as address:
            url = f"{address}/v1/completions"
            stream = asyncio.create_task(read(client, url))
            await submitted(gated, 1)
            release(gated, 1)
            await began.wait()
            plain = asyncio.create_task(client.post(url, json=body))
            silent = asyncio.create_task(client.post(url, json={**body, "stream": True}))
            await submitted(gated, 3)
        for answer in (await plain, await silent):
            assert answer.status_code == 503
            assert answer.json()["error"]["message"] == "it is stopping"
        assert "it is stopping" in await stream
        assert (await stream).endswith("data: [DONE]\n\n")
    assert capsys.readouterr().err == ""


async def test_openais_client_completes_and_streams() -> None:
    async with serving(make_app(FakeEngine())) as address:
        client = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        plain = await client.completions.create(
            model="tiny", prompt="hello", seed=3, max_tokens=20, logprobs=2, n=2
        )
        stream = await client.completions.create(
            model="tiny",
            prompt="hello",
            seed=3,
            max_tokens=20,
            n=2,
            stream=True,
            stream_options={"include_usage": True},
        )
        texts, usage = ["", ""], None
        async for event in stream:
            usage = event.usage or usage
            for choice in event.choices:
                texts[choice.index] += choice.text
        models = [model.id async for model in client.models.list()]
        with pytest.raises(openai.BadRequestError) as refused:
            await client.completions.create(model="tiny", prompt="a", max_tokens=-1)
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("other")
        await client.close()
    assert texts == [choice.text for choice in plain.choices]
    assert usage == plain.usage
    assert plain.system_fingerprint == "fp-test"
    assert models == ["tiny"]
    assert refused.value.param == "max_tokens"


async def test_openais_client_raises_for_an_error_in_a_stream() -> None:
    async with serving(make_app(FakeEngine(fail_after=2))) as address:
        client = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        stream = await client.completions.create(model="tiny", prompt="a", stream=True)
        with pytest.raises(openai.APIError, match="the engine lost it"):
            async for _ in stream:
                pass
        await client.close()
