from __future__ import annotations

import asyncio

import pytest

from engine.errors import RequestFailed
from engine.request import FinishReason, RequestTimes, TokenLogprob, TokenOutput
from engine.stream import RequestStream


def output(*token_ids: int, finish_reason: FinishReason | None = None) -> TokenOutput:
    logprobs = tuple(TokenLogprob(-float(token_id)) for token_id in token_ids)
    return TokenOutput(5, token_ids, logprobs, finish_reason)


async def read(stream: RequestStream) -> list[TokenOutput]:
    return [output async for output in stream]


def new_stream(aborted: list[int] | None = None, max_unread_tokens: int = 100) -> RequestStream:
    return RequestStream(5, ([] if aborted is None else aborted).append, max_unread_tokens)


async def test_a_waiting_reader_gets_each_output() -> None:
    stream = new_stream()
    reader = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    stream.push(output(1))
    assert await reader == output(1)
    stream.push(output(2, finish_reason=FinishReason.STOP))
    assert await read(stream) == [output(2, finish_reason=FinishReason.STOP)]


async def test_outputs_are_joined_for_a_slow_reader() -> None:
    times = RequestTimes(1, 2, 3)
    stream = new_stream()
    stream.push(TokenOutput(5, (1,), (TokenLogprob(-1.0),), num_cached_tokens=3))
    stream.push(output(2, 3))
    stream.push(TokenOutput(5, (), (), FinishReason.LENGTH, 3, times))
    assert await read(stream) == [
        TokenOutput(5, (1, 2, 3), output(1, 2, 3).logprobs, FinishReason.LENGTH, 3, times)
    ]


async def test_abort_tells_the_engine_once_and_ends_the_iteration() -> None:
    aborted: list[int] = []
    stream = new_stream(aborted)
    stream.push(output(1))
    stream.abort()
    stream.abort()
    stream.push(output(2))  # of a step that was under way
    assert aborted == [5]
    assert await read(stream) == [output(1, finish_reason=FinishReason.ABORT)]


async def test_abort_after_the_end_is_nothing() -> None:
    aborted: list[int] = []
    stream = new_stream(aborted)
    stream.push(output(1, finish_reason=FinishReason.STOP))
    stream.abort()
    assert aborted == []
    assert [o.finish_reason for o in await read(stream)] == [FinishReason.STOP]


async def test_a_lost_request_raises_once_after_what_it_brought() -> None:
    stream = new_stream()
    stream.push(output(1))
    stream.fail(RequestFailed("first"))
    stream.fail(RequestFailed("second"))
    assert await anext(stream) == output(1)
    with pytest.raises(RequestFailed, match="first"):
        await anext(stream)
    assert await read(stream) == []


async def test_a_reader_that_does_not_read_loses_the_request() -> None:
    aborted: list[int] = []
    stream = new_stream(aborted, max_unread_tokens=3)
    stream.push(output(1, 2, 3))
    assert await anext(stream) == output(1, 2, 3)  # what was read does not count
    stream.push(output(4, 5, 6))
    assert aborted == []
    stream.push(output(7))
    assert aborted == [5]
    with pytest.raises(RequestFailed, match="at most 3 tokens unread"):
        await read(stream)


async def test_a_cancelled_reader_loses_nothing() -> None:
    stream = new_stream()
    reader = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    reader.cancel()
    stream.push(output(1))
    await asyncio.wait([reader])
    assert await anext(stream) == output(1)
