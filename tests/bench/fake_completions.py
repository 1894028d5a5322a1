"""A server of twenty lines that answers completions as it is told to, and waits for no one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from bench.client import Address

DONE = b"[DONE]"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def text_event(text: str, **more: Any) -> bytes:
    return json.dumps({"choices": [{"text": text}], **more}, separators=(",", ":")).encode()


def usage_event(count: int) -> bytes:
    return json.dumps({"choices": [], "usage": {"completion_tokens": count}}).encode()


def as_chunks(events: Sequence[bytes], cut: int = 1 << 20) -> bytes:
    """A chunked stream whose chunks end where they please."""
    body = b"".join(b"data: " + event + b"\n\n" for event in events)
    parts = [body[i : i + cut] for i in range(0, len(body), cut)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def plain(value: Any, status: str = "200 OK") -> bytes:
    body = json.dumps(value).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class FakeCompletions:
    """``answer`` is what completions get; None keeps them waiting. ``bodies`` are theirs."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.arrived = asyncio.Event()
        self.handling: list[asyncio.Task[None]] = []

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.handling.append(asyncio.create_task(self.handle(reader, writer)))

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        if head.startswith(b"GET"):
            writer.write(plain({"data": [{"id": "fake"}]}))
        else:
            self.bodies.append(json.loads(body))
            self.arrived.set()
            if self.answer is None:
                await reader.read()  # until the client leaves
            else:
                writer.write(self.answer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def serving(answer: bytes | None) -> AsyncIterator[tuple[FakeCompletions, Address]]:
    fake = FakeCompletions(answer)
    server = await asyncio.start_server(fake.accept, "127.0.0.1", 0)
    async with server:
        yield fake, Address("127.0.0.1", server.sockets[0].getsockname()[1], "")
        await asyncio.gather(*fake.handling)
