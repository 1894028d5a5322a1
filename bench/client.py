"""A completion over a bare asyncio connection: when each event came, and how it ended.

Not httpx: its layers take some 30 us an event where a read and a search for a few bytes take one,
and the client shares the processor with what it measures.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_LIMIT_BYTES = 1 << 22  # of one line
_ENCODED = {"Content-Type": "application/json", "Connection": "close"}


@dataclass(frozen=True, slots=True)
class Address:
    """Of an OpenAI-style server: ``http://host:port``, with or without ``/v1``."""

    host: str
    port: int
    prefix: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Raises ValueError for what is not plain HTTP."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"the URL must be http://HOST:PORT, got {url!r}")
        return cls(parts.hostname, parts.port or 80, parts.path.rstrip("/").removesuffix("/v1"))


@dataclass(slots=True)
class Outcome:
    """One request. ``error`` is None, or the kind of failure; times are of the monotonic clock.

    ``num_tokens`` is what the server's usage says, or else the number of events with text.
    """

    started_s: float
    event_s: list[float] = field(default_factory=list)
    ended_s: float = 0.0
    num_tokens: int | None = None
    error: str | None = None

    @property
    def tokens(self) -> int:
        """New tokens, counted one way or the other."""
        return len(self.event_s) if self.num_tokens is None else self.num_tokens


class HttpError(Exception):
    """Not an answer that was hoped for; the message is its kind."""


async def complete(
    address: Address, body: dict[str, Any], *, timeout_s: float, token: str | None = None
) -> Outcome:
    """One completion. Never raises: what goes wrong is the outcome's ``error``."""
    outcome = Outcome(time.perf_counter())
    try:
        async with asyncio.timeout(timeout_s):
            await _complete(address, body, token, outcome)
    except TimeoutError:
        outcome.error = "timeout"
    except HttpError as error:
        outcome.error = str(error)
    except (asyncio.IncompleteReadError, ConnectionError, ValueError):
        outcome.error = "broken answer" if outcome.event_s else "connection"
    except OSError:
        outcome.error = "connection"
    outcome.ended_s = time.perf_counter()
    return outcome


async def _complete(
    address: Address, body: dict[str, Any], token: str | None, outcome: Outcome
) -> None:
    reader, writer = await asyncio.open_connection(address.host, address.port, limit=_LIMIT_BYTES)
    try:
        writer.write(request_bytes(address, "POST", "/v1/completions", body, token))
        parts = await answer_parts(reader)
        if body.get("stream"):
            await read_events(parts, outcome)
        else:
            answer = json.loads(b"".join([part async for part in parts]))
            outcome.event_s.append(time.perf_counter())
            outcome.num_tokens = tokens_of(answer)
    finally:
        writer.close()


async def get_json(address: Address, path: str, token: str | None = None) -> Any:
    """A GET. Raises HttpError, OSError, ValueError."""
    return json.loads(await get(address, path, token))


async def get(address: Address, path: str, token: str | None = None) -> bytes:
    """The body of a GET. Raises HttpError, OSError, ValueError."""
    reader, writer = await asyncio.open_connection(address.host, address.port, limit=_LIMIT_BYTES)
    try:
        writer.write(request_bytes(address, "GET", path, None, token))
        return b"".join([part async for part in await answer_parts(reader)])
    finally:
        writer.close()


def request_bytes(
    address: Address, method: str, path: str, body: dict[str, Any] | None, token: str | None
) -> bytes:
    """A whole request; the connection is for it alone."""
    payload = b"" if body is None else json.dumps(body).encode()
    headers = {"Host": f"{address.host}:{address.port}", **_ENCODED}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    headers["Content-Length"] = str(len(payload))
    lines = [
        f"{method} {address.prefix}{path} HTTP/1.1",
        *(f"{k}: {v}" for k, v in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + payload


async def answer_parts(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The body in parts, once the status is known to be 200. Raises HttpError."""
    status, head = await answer_head(reader)
    if status != 200:
        raise HttpError(f"status {status}")
    return body_parts(reader, head)


async def answer_head(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The status and the whole head, in lower case. Raises HttpError for what is not HTTP."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    protocol, _, rest = head.partition(b" ")
    if not protocol.startswith(b"http/1.") or not rest[:3].isdigit():
        raise HttpError("not HTTP")
    return int(rest[:3]), head


def body_parts(reader: asyncio.StreamReader, head: bytes) -> AsyncIterator[bytes]:
    """The body that comes after ``head``, in parts."""
    if b"transfer-encoding: chunked" in head:
        return _chunks(reader)
    _, has_length, rest = head.partition(b"content-length:")
    return _counted(reader, int(rest.split(b"\r\n")[0]) if has_length else None)


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]


async def _counted(reader: asyncio.StreamReader, length: int | None) -> AsyncIterator[bytes]:
    if length is not None:
        yield await reader.readexactly(length)
        return
    while part := await reader.read(1 << 16):
        yield part


async def read_events(parts: AsyncIterator[bytes], outcome: Outcome) -> None:
    """Note the events of a stream. Raises HttpError for one that ends without its mark."""
    rest = b""
    async for part in parts:
        now_s = time.perf_counter()
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and note(line[5:].strip(), now_s, outcome):
                return
    raise HttpError("stream without an end")


def note(data: bytes, now_s: float, outcome: Outcome) -> bool:
    """Take note of one event; True for the last. Raises HttpError for an error.

    Most events are searched for a few bytes and not parsed.
    """
    if data == b"[DONE]":
        return True
    has_usage = b'"usage"' in data and b'"usage":null' not in data.replace(b" ", b"")
    if b'"error"' in data or has_usage:
        event = json.loads(data)
        if event.get("error"):
            raise HttpError("error event")
        outcome.num_tokens = tokens_of(event) or outcome.num_tokens
        if not any(choice.get("text") for choice in event.get("choices", ())):
            return False
    elif b'"text":""' in data or b'"text": ""' in data:
        return False
    outcome.event_s.append(now_s)
    return False


def tokens_of(answer: dict[str, Any]) -> int | None:
    """What its usage says."""
    usage = answer.get("usage") or {}
    count = usage.get("completion_tokens")
    return count if isinstance(count, int) else None
