"""The client of the load generator: events, tokens, and each way to fail under its own name."""

from __future__ import annotations

import socket

import pytest

from bench.client import Address, Outcome, complete, get_json, note
from tests.bench.fake_completions import (
    DONE,
    HEAD,
    as_chunks,
    plain,
    serving,
    text_event,
    usage_event,
)

STREAM = {"stream": True}
WORDS = [text_event("a"), text_event("b"), text_event("")]


@pytest.mark.parametrize("cut", [1, 7, 1 << 20])
async def test_events_however_they_are_cut(cut: int) -> None:
    """An event counts once, with or without text; only text is a token in time."""
    async with serving(as_chunks([*WORDS, usage_event(5), DONE], cut)) as (_, address):
        outcome = await complete(address, STREAM, timeout_s=10)
    assert outcome.error is None
    assert len(outcome.event_s) == 2
    assert outcome.tokens == 5
    assert outcome.started_s <= outcome.event_s[0] <= outcome.event_s[1] <= outcome.ended_s


async def test_events_are_counted_where_there_is_no_usage() -> None:
    async with serving(as_chunks([*WORDS, DONE])) as (_, address):
        assert (await complete(address, STREAM, timeout_s=10)).tokens == 2


async def test_a_plain_answer_is_one_event() -> None:
    answer = plain({"choices": [{"text": "ab"}], "usage": {"completion_tokens": 9}})
    async with serving(answer) as (fake, address):
        outcome = await complete(address, {"prompt": [1]}, timeout_s=10)
    assert (outcome.error, outcome.tokens, len(outcome.event_s)) == (None, 9, 1)
    assert fake.bodies == [{"prompt": [1]}]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (plain({"error": "full"}, "429 Too Many Requests"), "status 429"),
        (as_chunks([text_event("a"), b'{"error": {"message": "x"}}', DONE]), "error event"),
        (as_chunks([text_event("a")]), "stream without an end"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nda", "connection"),
        (as_chunks([text_event("a"), text_event("b")], 40)[:-20], "broken answer"),
        (b"", "connection"),
        (b"SSH-2.0\r\n\r\n", "not HTTP"),
    ],
)
async def test_each_failure_has_a_kind(answer: bytes, error: str) -> None:
    async with serving(answer) as (_, address):
        outcome = await complete(address, STREAM, timeout_s=10)
    assert outcome.error == error
    assert outcome.ended_s >= outcome.started_s


async def test_a_server_that_says_nothing_is_a_timeout() -> None:
    async with serving(None) as (fake, address):
        outcome = await complete(address, STREAM, timeout_s=0.05)
        await fake.arrived.wait()
    assert outcome.error == "timeout"


async def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert (await complete(Address("127.0.0.1", port, ""), {}, timeout_s=10)).error == "connection"


async def test_a_get() -> None:
    async with serving(b"") as (_, address):
        assert await get_json(address, "/v1/models") == {"data": [{"id": "fake"}]}


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[{"text":"x"}],"usage":null}',
        b'{"choices": [{"text": "x"}], "usage": null}',
        b'{"choices": [{"text": "x"}], "usage": {"completion_tokens": 3}}',
        b'{"choices":[{"text":"the \\"error\\" of"}]}',
    ],
)
def test_text_beside_other_things_is_text(data: bytes) -> None:
    """vLLM says usage null in every event, others say it beside the last text."""
    outcome = Outcome(0.0)
    assert not note(data, 1.0, outcome)
    assert outcome.event_s == [1.0]


@pytest.mark.parametrize("url", ["http://h:1", "h:1", "http://h:1/", "http://h:1/v1/"])
def test_addresses(url: str) -> None:
    assert Address.of(url) == Address("h", 1, "")


def test_only_plain_http() -> None:
    with pytest.raises(ValueError, match="https"):
        Address.of("https://h")
