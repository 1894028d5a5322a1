"""One request and the whole of its answer, read by a client that trusts nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.client import Address, HttpError, answer_head, body_parts, request_bytes

_LIMIT_BYTES = 1 << 24  # of one event
BROKEN = (
    *(EOFError, OSError, asyncio.LimitOverrunError),
    *(ValueError, KeyError, TypeError, AttributeError),
)
"""The connection breaks off; or what came is no answer of this route."""


@dataclass(slots=True)
class Reply:
    """What came back. ``error`` is None for an answer with an end, whatever its status.

    ``texts`` and ``finish_reasons`` are those of each choice, by index; a choice with two reasons
    was answered twice. ``event_s`` are the times of events with text.
    """

    started_s: float
    is_sent: bool = False
    status: int | None = None
    head: bytes = b""
    body: bytes = b""
    texts: dict[int, str] = field(default_factory=dict)
    finish_reasons: dict[int, list[str]] = field(default_factory=dict)
    event_s: list[float] = field(default_factory=list)
    ended_s: float = 0.0
    error: str | None = None

    @property
    def is_good(self) -> bool:
        """Status 200, and every choice has ended, once."""
        is_once = all(len(reasons) == 1 for reasons in self.finish_reasons.values())
        return self.error is None and self.status == 200 and is_once

    def kind(self) -> str:
        """The status, or what went wrong instead."""
        return self.error or str(self.status)


async def ask(address: Address, path: str, body: Mapping[str, Any], *, timeout_s: float) -> Reply:
    """One POST. Never raises; a ``timeout`` is also how a client leaves."""
    reply = Reply(time.perf_counter())
    try:
        async with asyncio.timeout(timeout_s):
            await _exchange(address, path, body, reply)
    except TimeoutError:
        reply.error = "timeout"
    except HttpError as error:
        reply.error = str(error)
    except BROKEN as error:
        reply.error = f"broken: {type(error).__name__}"
    reply.ended_s = time.perf_counter()
    return reply


async def _exchange(address: Address, path: str, body: Mapping[str, Any], reply: Reply) -> None:
    reader, writer = await asyncio.open_connection(address.host, address.port, limit=_LIMIT_BYTES)
    try:
        writer.write(request_bytes(address, "POST", path, dict(body), None))
        reply.is_sent = True
        reply.status, reply.head = await answer_head(reader)
        parts = body_parts(reader, reply.head)
        if b"text/event-stream" in reply.head:
            await _read_events(parts, reply)
            return
        reply.body = b"".join([part async for part in parts])
        if reply.status == 200:
            fold(json.loads(reply.body), reply)
    finally:
        writer.close()


async def _read_events(parts: Any, reply: Reply) -> None:
    """To the end of the body, not only to the mark: nothing may come behind it."""
    rest, is_ended = b"", False
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            if is_ended:
                raise HttpError("an event behind the end")
            data = line[5:].strip()
            is_ended = data == b"[DONE]"
            if not is_ended:
                fold(json.loads(data), reply)
    if not is_ended:
        raise HttpError("stream without an end")


def fold(value: dict[str, Any], reply: Reply) -> None:
    """Take in an event, or a whole answer. Raises HttpError for one that tells of an error."""
    if error := value.get("error"):
        raise HttpError(f"error: {error.get('code')}")
    for choice in value.get("choices", ()):
        index = choice["index"]
        reply.texts[index] = reply.texts.get(index, "") + choice["text"]
        reasons = reply.finish_reasons.setdefault(index, [])
        if choice["finish_reason"] is not None:
            reasons.append(choice["finish_reason"])
        if choice["text"]:
            reply.event_s.append(time.perf_counter())
