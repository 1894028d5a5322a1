"""A client that trusts nothing: every way in which an answer can be wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.client import Address
from bench.trouble.exchange import Reply, ask
from tests.bench.fake_completions import DONE, as_chunks, plain, serving


def event(text: str, finish_reason: str | None = None, index: int = 0) -> bytes:
    choice = {"index": index, "text": text, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice]}).encode()


async def reply_to(answer: bytes | None, timeout_s: float = 10) -> Reply:
    async with serving(answer) as (_, address):
        return await ask(address, "/v1/completions", {"prompt": "a"}, timeout_s=timeout_s)


async def test_a_stream_is_folded() -> None:
    events = [event("a"), event("x", index=1), event("b", "length"), event("", "stop", 1), DONE]
    reply = await reply_to(as_chunks(events, cut=7))
    assert reply.is_good
    assert reply.texts == {0: "ab", 1: "x"}
    assert reply.finish_reasons == {0: ["length"], 1: ["stop"]}
    assert (reply.kind(), len(reply.event_s), reply.is_sent) == ("200", 3, True)


async def test_a_plain_answer_is_the_same() -> None:
    choice = {"index": 0, "text": "ab", "finish_reason": "length"}
    reply = await reply_to(plain({"choices": [choice]}))
    assert reply.is_good
    assert (reply.texts, reply.finish_reasons) == ({0: "ab"}, {0: ["length"]})


async def test_a_refusal_has_an_end_and_is_not_good() -> None:
    reply = await reply_to(plain({"error": {}}, "429 Too Many Requests"))
    assert (reply.error, reply.status, reply.kind(), reply.is_good) == (None, 429, "429", False)


@pytest.mark.parametrize(
    "events",
    [
        [event("a"), DONE],
        [event("a", "length"), event("b", "length"), DONE],
    ],
    ids=["no reason", "two reasons"],
)
async def test_a_choice_ends_once(events: list[bytes]) -> None:
    assert not (await reply_to(as_chunks(events))).is_good


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ([event("a", "length")], "stream without an end"),
        ([event("a", "length"), DONE, event("b", "length")], "an event behind the end"),
        ([event("a", "length"), DONE, DONE], "an event behind the end"),
        ([b'{"error": {"code": "engine_failed"}}', DONE], "error: engine_failed"),
        ([b"{", DONE], "broken: JSONDecodeError"),
    ],
)
async def test_what_can_be_wrong_with_a_stream(events: list[bytes], error: str) -> None:
    assert (await reply_to(as_chunks(events))).error == error


@pytest.mark.parametrize(
    "answer",
    [as_chunks([event("a"), DONE])[:-20], b"", b"HTTP/1.1 200 OK\r\n", plain({"choices": 5})],
)
async def test_an_answer_that_breaks_off(answer: bytes) -> None:
    reply = await reply_to(answer)
    assert reply.error is not None
    assert not reply.is_good


async def test_a_client_leaves_in_time() -> None:
    reply = await reply_to(None, timeout_s=0.05)
    assert (reply.error, reply.is_sent) == ("timeout", True)


async def test_nobody_there() -> None:
    body: dict[str, Any] = {}
    reply = await ask(Address("127.0.0.1", 1, ""), "/v1/completions", body, timeout_s=10)
    assert reply.error == "broken: ConnectionRefusedError"
    assert not reply.is_sent
