from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from server.errors import ApiError
from server.limits import BodyLimit, HeaderLimit


async def read_all(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def status_of(chunks: list[int], headers: list[tuple[bytes, bytes]]) -> int:
    """What a client hears that sends chunks of these sizes to a server that takes 10 bytes."""
    statuses = []
    refused: list[str] = []
    parts = iter(chunks)

    async def receive() -> Message:
        num_bytes = next(parts)
        return {"type": "http.request", "body": b"x" * num_bytes, "more_body": True}

    async def send(message: Message) -> None:
        statuses.append(message.get("status"))

    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    try:
        await BodyLimit(read_all, 10, 60, refused.append)(scope, receive, send)
    except ApiError as error:
        assert refused == ["body_too_large"]
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


def request_scope(**more: object) -> Scope:
    return {"type": "http", "method": "POST", "path": "/", "headers": [], **more}


async def test_a_body_has_to_come_in_time() -> None:
    """One byte of it each time that one is waited for; the time is for all of it."""
    num_parts = 0

    async def drip() -> Message:
        nonlocal num_parts
        num_parts += 1
        await asyncio.sleep(0.001)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(_message: Message) -> None:
        raise AssertionError("there is nothing to send")

    refused: list[str] = []
    limit = BodyLimit(read_all, 10**6, 0.05, refused.append)
    with pytest.raises(ApiError, match=r"within 0\.05 seconds; [0-9]+ bytes have") as caught:
        await limit(request_scope(), drip, send)
    assert caught.value.status == 408
    assert refused == ["request_timeout"]
    assert num_parts > 1


async def test_a_client_that_has_sent_everything_may_wait_for_ever() -> None:
    """The same ``receive`` then tells of a client that leaves."""
    left = asyncio.Event()

    async def receive() -> Message:
        if not heard:
            return {"type": "http.request", "body": b"x", "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    heard: list[str] = []

    async def listen(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append((await receive())["type"])
        asyncio.get_running_loop().call_later(0.05, left.set)
        heard.append((await receive())["type"])

    async def send(_message: Message) -> None:
        raise AssertionError("there is nothing to send")

    await BodyLimit(listen, 10, 0.001, heard.append)(request_scope(), receive, send)
    assert heard == ["http.request", "http.disconnect"]


@pytest.mark.parametrize(
    "more",
    [
        {"headers": [(b"a", b"x" * 96)]},
        {"headers": [(b"a", b"x")] * 20},
        {"query_string": b"x" * 100},
        {"raw_path": b"/" + b"x" * 100},
    ],
    ids=lambda more: next(iter(more)),
)
async def test_path_query_and_headers_are_bounded_together(more: dict[str, object]) -> None:
    statuses: list[int] = []
    refused: list[str] = []

    async def receive() -> Message:
        raise AssertionError("nobody asks for the body")

    async def send(message: Message) -> None:
        statuses.append(message.get("status", 0))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    for most in (100, 1_000):
        limit = HeaderLimit(app, most, refused.append)
        await limit(request_scope(**more), receive, send)
    assert statuses == [431, 0, 200]
    assert refused == ["header_too_large"]
