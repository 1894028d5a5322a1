from __future__ import annotations

import pytest
from starlette.types import Message, Receive, Scope, Send

from server.errors import ApiError
from server.limits import BodyLimit


async def read_all(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def status_of(chunks: list[int], headers: list[tuple[bytes, bytes]]) -> int:
    """What a client hears that sends chunks of these sizes to a server that takes 10 bytes."""
    statuses = []
    parts = iter(chunks)

    async def receive() -> Message:
        num_bytes = next(parts)
        return {"type": "http.request", "body": b"x" * num_bytes, "more_body": True}

    async def send(message: Message) -> None:
        statuses.append(message.get("status"))

    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    try:
        await BodyLimit(read_all, 10)(scope, receive, send)
    except ApiError as error:
        return error.status
    except StopIteration:
        return 200
    return statuses[0] or 0


@pytest.mark.parametrize("length", [b"11", b"9" * 18, b"9" * 5_000])
async def test_a_content_length_over_the_limit_is_refused_unread(length: bytes) -> None:
    assert await status_of([], [(b"content-length", length)]) == 413


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"4")], [(b"content-length", b"x")]])
async def test_what_comes_is_counted_whatever_was_said(
    headers: list[tuple[bytes, bytes]],
) -> None:
    assert await status_of([4, 4, 3], headers) == 413


async def test_nothing_is_read_past_the_limit() -> None:
    """A fourth chunk would be a StopIteration, that is a RuntimeError from a coroutine."""
    assert await status_of([11], []) == 413
