from __future__ import annotations

import asyncio

import pytest
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.linger import Linger


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    await Response("no", 400)(scope, receive, send)


async def answer_to(
    parts: list[Message], headers: list[tuple[bytes, bytes]], app: ASGIApp = refuse
) -> tuple[list[Message], list[Message]]:
    """What is sent to a client that sends ``parts`` and then nothing; and the parts unread."""
    unread = list(parts)
    sent: list[Message] = []

    async def receive() -> Message:
        if not unread:
            await asyncio.get_running_loop().create_future()
        return unread.pop(0)

    async def send(message: Message) -> None:
        sent.append({**message, "unread": len(unread)})

    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    await Linger(app, linger_s=0.01)(scope, receive, send)
    return sent, unread


def part(*, is_last: bool) -> Message:
    return {"type": "http.request", "body": b"x", "more_body": not is_last}


@pytest.mark.parametrize("header", [(b"content-length", b"3"), (b"transfer-encoding", b"chunked")])
async def test_the_answer_is_sent_at_once_and_ends_when_the_body_has(
    header: tuple[bytes, bytes],
) -> None:
    parts = [part(is_last=False), part(is_last=False), part(is_last=True)]
    sent, unread = await answer_to(parts, [header])
    assert [message.get("body") for message in sent] == [None, b"no", None]
    assert [message["unread"] for message in sent] == [3, 3, 0]
    assert [message.get("more_body", False) for message in sent] == [False, True, False]
    assert unread == []


async def test_a_client_that_leaves_is_not_waited_for() -> None:
    sent, _ = await answer_to([{"type": "http.disconnect"}], [(b"content-length", b"3")])
    assert len(sent) == 3


async def test_a_body_that_does_not_end_is_waited_for_only_so_long() -> None:
    sent, _ = await answer_to([part(is_last=False)], [(b"content-length", b"3")])
    assert len(sent) == 3


async def test_without_a_body_there_is_nothing_to_wait_for() -> None:
    for headers in ([], [(b"content-length", b"0")]):
        assert len((await answer_to([], headers))[0]) == 2


async def test_an_answer_to_what_was_not_read_is_the_last_on_its_connection() -> None:
    sent, _ = await answer_to([part(is_last=True)], [(b"content-length", b"3")])
    assert (b"connection", b"close") in sent[0]["headers"]


async def test_a_body_that_waits_to_be_asked_for_is_not_waited_for() -> None:
    """The client was refused by its header, so it will not send the body: nothing would come."""
    headers = [(b"content-length", b"3"), (b"expect", b"100-Continue")]
    sent, unread = await answer_to([part(is_last=True)], headers)
    assert [message.get("more_body", False) for message in sent] == [False, False]
    assert len(unread) == 1


async def test_a_body_that_came_too_late_is_not_waited_for_again() -> None:
    async def too_late(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await Response("late", 408)(scope, receive, send)

    sent, unread = await answer_to([part(is_last=False)] * 2, [(b"content-length", b"3")], too_late)
    assert [message.get("more_body", False) for message in sent] == [False, False]
    assert len(unread) == 1
