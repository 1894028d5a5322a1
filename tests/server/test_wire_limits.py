"""Hostile and half-dead clients over real sockets: slow, huge, silent, too many, never reading."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest

from server import wire
from tests.server.conftest import make_app, serving
from tests.server.fake_engine import FakeEngine

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = b'{"prompt": "a", "max_tokens": 2, "seed": 1}'
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


@dataclass
class Peer:
    """A client that is not bound to HTTP."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> tuple[int, dict[str, object]]:
        """The status and the JSON of everything until the server hangs up."""
        async with asyncio.timeout(10):
            data = await self.reader.read()
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)["error"]

    async def is_cut(self) -> bool:
        """Waits for the end; whether nothing came before it."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Peer]:
    url = httpx.URL(address)
    peer = Peer(*await asyncio.open_connection(url.host, url.port))
    try:
        yield peer
    finally:
        peer.writer.close()


async def drip(peer: Peer, data: bytes) -> None:
    """A byte at a time, until the server has enough of it."""
    try:
        for index in range(len(data)):
            peer.writer.write(data[index : index + 1])
            await peer.writer.drain()
            await asyncio.sleep(0.01)
    except ConnectionError:
        return


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET /health HTTP/1.1\r\nX: " + b"x" * 1_000, "request_timeout"),
        (b"\r\n" * 500, "request_timeout"),
        (HEAD + b"Content-Length: 500\r\n\r\n" + b" " * 400, "request_timeout"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 400, "request_timeout"),
    ],
    ids=["header", "nothing but line ends", "body", "chunks"],
)
async def test_a_request_that_drips_in_is_refused_in_time(data: bytes, code: str) -> None:
    app = make_app(FakeEngine(), header_timeout_s=0.2, body_timeout_s=0.2)
    async with serving(app) as address, connected(address) as peer:
        task = asyncio.create_task(drip(peer, data))
        status, error = await peer.answer()
        task.cancel()
    assert (status, error["code"]) == (408, code)


async def test_a_request_that_stops_halfway_is_refused_in_time() -> None:
    app = make_app(FakeEngine(), header_timeout_s=0.1, body_timeout_s=0.1)
    async with (
        serving(app) as address,
        connected(address) as silent,
        connected(address) as half,
        connected(address) as unfinished,
    ):
        half.writer.write(HEAD)
        unfinished.writer.write(HEAD + b"Content-Length: 9\r\n\r\n{")
        assert await silent.is_cut()
        assert (await half.answer())[0] == 408
        status, error = await unfinished.answer()
    assert status == 408
    assert error["message"] == "the body must come within 0.1 seconds; 1 bytes have"


async def test_a_rest_that_drips_in_after_the_answer_is_bounded_too() -> None:
    """Each byte cancels the time that an idle connection has; it needs another bound."""
    app = make_app(FakeEngine(), header_timeout_s=0.2)
    async with serving(app) as address, connected(address) as peer:
        peer.writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        task = asyncio.create_task(drip(peer, b"GET /health HTTP/1.1\r\n" + b"x" * 1_000))
        async with asyncio.timeout(10):
            told = await peer.reader.read()
        task.cancel()
    assert told.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in told


@pytest.mark.parametrize(
    "data",
    [
        b"GET /health HTTP/1.1\r\nX: " + b"x" * 600_000,
        b"GET /health?" + b"x" * 600_000,
        b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 100_000,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"x" * 600_000,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 600_000,
    ],
    ids=["a header", "a query", "many headers", "a trailer", "a chunk's extension"],
)
async def test_a_header_that_does_not_end_is_refused_before_it_fills_the_memory(
    data: bytes,
) -> None:
    async with serving(make_app(FakeEngine())) as address, connected(address) as peer:
        peer.writer.write(data)
        status, error = await peer.answer()
    assert (status, error["code"]) == (431, "header_too_large")


async def test_a_whole_header_may_be_only_so_large() -> None:
    async with (
        serving(make_app(FakeEngine())) as address,
        httpx.AsyncClient(base_url=address) as client,
    ):
        assert (await client.get("/health", headers={"X": "x" * 30_000})).status_code == 200
        refused = await client.get("/health", headers={"X": "x" * 33_000})
        metrics = (await client.get("/metrics")).text
    assert refused.status_code == 431
    assert "at most 32768 bytes" in refused.json()["error"]["message"]
    assert 'admission_rejections_total{model_name="tiny",reason="header_too_large"} 1.0' in metrics


@pytest.mark.parametrize("is_in_one_piece", [True, False])
async def test_an_offer_to_upgrade_is_served_as_it_is(*, is_in_one_piece: bool) -> None:
    """llhttp drops the body behind such a header, since it expects another protocol there."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
    request = HEAD + offer + b"Content-Length: %d\r\n\r\n" % len(BODY)
    last = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with serving(make_app(FakeEngine())) as address, connected(address) as peer:
        parts = [request + BODY + last] if is_in_one_piece else [request, BODY[:5], BODY[5:] + last]
        for part in parts:
            peer.writer.write(part)
            await peer.writer.drain()
            await asyncio.sleep(0.02)  # so that it is a piece of its own
        async with asyncio.timeout(10):
            told = await peer.reader.read()
    assert told.count(b"HTTP/1.1 200 OK") == 2
    assert b'"finish_reason":"length"' in told
    assert b'{"version":' in told


async def test_connect_is_refused() -> None:
    async with serving(make_app(FakeEngine())) as address, connected(address) as peer:
        peer.writer.write(b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await peer.answer())[0] == 405


@pytest.mark.parametrize(
    ("length", "status"),
    [(len(BODY) + 5, 408), (len(BODY) - 5, 400), (10**15, 413), (-1, 400)],
    ids=["too long", "too short", "far too long", "negative"],
)
async def test_a_content_length_that_lies_is_an_error_and_no_more(length: int, status: int) -> None:
    app = make_app(FakeEngine(), body_timeout_s=0.1)
    async with serving(app) as address, connected(address) as peer:
        peer.writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % length + BODY)
        peer.writer.write_eof() if status == 413 else None
        assert (await peer.answer())[0] == status


async def test_expect_100_continue_asks_before_it_sends() -> None:
    """What is refused by its header is not asked for, and nobody waits for it."""
    expecting = HEAD + b"Expect: 100-continue\r\nConnection: close\r\n"
    async with serving(make_app(FakeEngine(), max_body_bytes=1_024)) as address:
        async with connected(address) as peer, asyncio.timeout(10):
            peer.writer.write(expecting + b"Content-Length: %d\r\n\r\n" % len(BODY))
            assert await peer.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            peer.writer.write(BODY)
            assert (await peer.reader.read()).startswith(b"HTTP/1.1 200 OK")
        async with connected(address) as peer, asyncio.timeout(2):
            peer.writer.write(expecting + b"Content-Length: 9999\r\n\r\n")
            told = await peer.reader.read()
    assert told.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in told


async def test_connections_beyond_the_limit_are_told_so_and_probes_are_answered() -> None:
    app = make_app(FakeEngine(), max_connections=2)
    async with serving(app) as address, connected(address) as first, connected(address) as second:
        for peer in (first, second):  # both are kept alive
            peer.writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            await peer.reader.readuntil(b'"ok"}')
        async with connected(address) as third:
            third.writer.write(WHOLE)
            status, error = await third.answer()
        assert (status, error["code"]) == (503, "too_many_connections")
        async with httpx.AsyncClient(base_url=address) as probe:
            assert (await probe.get("/health")).status_code == 200
            assert (await probe.get("/version")).headers["retry-after"] == "1"
        async with connected(address) as silent, asyncio.timeout(3):
            assert await silent.is_cut(), "one that says nothing has less time than others"
        second.writer.write(WHOLE.replace(b"Host: x", b"Connection: close"))
        assert b"HTTP/1.1 200 OK" in await second.reader.read()


async def test_far_too_many_connections_are_cut_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_EXTRA", 1)
    async with (
        serving(make_app(FakeEngine(), max_connections=1)) as address,
        connected(address),
        connected(address),
        connected(address) as third,
    ):
        assert await third.is_cut()


async def test_a_client_that_asks_and_asks_is_cut() -> None:
    async with serving(make_app(FakeEngine())) as address, connected(address) as peer:
        peer.writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000)
        async with asyncio.timeout(10):
            assert (await peer.reader.read()).count(b"HTTP/1.1 200 OK") <= wire.MAX_PIPELINED + 1
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{address}/health")).status_code == 200


async def test_garbage_after_a_request_does_not_take_its_answer() -> None:
    async with serving(make_app(FakeEngine())) as address, connected(address) as peer:
        peer.writer.write(WHOLE + b"\0garbage\r\n")
        async with asyncio.timeout(10):
            told = await peer.reader.read()
    assert told.startswith(b"HTTP/1.1 200 OK")
    assert told.count(b"HTTP/1.1") == 1


async def test_garbage_within_a_body_is_refused_at_once() -> None:
    async with serving(make_app(FakeEngine())) as address, connected(address) as peer:
        peer.writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        await peer.writer.drain()
        await asyncio.sleep(0.02)  # so that the route waits for it
        peer.writer.write(b"1\r\n{\r\nno number\r\n")
        status, error = await peer.answer()
    assert (status, error["code"]) == (400, "invalid_http")


def tokenizing(text: str) -> bytes:
    """A request whose answer is 20 times as long as ``text``, here."""
    body = json.dumps({"prompt": text}).encode()
    head = HEAD.replace(b"/v1/completions", b"/tokenize") + b"Connection: close\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def test_a_reader_that_takes_nothing_is_cut_in_time_and_others_go_on() -> None:
    app = make_app(FakeEngine(), send_timeout_s=0.2, max_tokenize_bytes=10**6)
    async with serving(app) as address, httpx.AsyncClient(base_url=address) as client:
        url = httpx.URL(address)
        loop = asyncio.get_running_loop()
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            reader.setblocking(False)
            await loop.sock_connect(reader, (url.host, url.port))
            await loop.sock_sendall(reader, tokenizing("ab" * 60_000))
            async with asyncio.timeout(10):
                text = ""
                while 'reason="send_timeout"} 1.0' not in text:
                    text = (await client.get("/metrics")).text
                    other = await client.post("/v1/completions", json={"prompt": "a"})
                    assert other.status_code == 200


async def test_a_reader_that_is_slow_but_reads_is_not_cut() -> None:
    """A large answer over a thin line: it takes longer than the bound, but it moves."""
    app = make_app(FakeEngine(), send_timeout_s=0.3, max_tokenize_bytes=10**6)
    async with serving(app) as address:
        url = httpx.URL(address)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
            sock.connect((url.host, url.port))
            reader, writer = await asyncio.open_connection(sock=sock, limit=2**15)
            writer.write(tokenizing("ab" * 80_000))
            num_bytes = 0
            async with asyncio.timeout(20):
                while part := await reader.read(2**16):
                    num_bytes += len(part)
                    await asyncio.sleep(0.01)
            writer.close()
    assert num_bytes > 2_500_000
