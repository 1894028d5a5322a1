from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from engine.client import EngineClient
from engine.errors import (
    EngineDown,
    EngineFailed,
    InvalidParams,
    PromptTooLong,
    QueueFull,
    RequestFailed,
)
from engine.messages import EngineConfig, EngineStats
from engine.request import FinishReason, SamplingParams
from engine.stream import RequestStream
from engine.supervision import Supervision
from tests.engine.fake_core import FACTORY, Behaviour, expected_ids, fake_config

WHOLE = SamplingParams(max_tokens=64)
ENDLESS = SamplingParams(max_tokens=10**6)
ONE_ENDLESS_AT_A_TIME = Behaviour(num_slots=1, step_s=0.001, context_len=10**6)


@asynccontextmanager
async def running(config: EngineConfig | None = None) -> AsyncIterator[EngineClient]:
    client = EngineClient(config or fake_config(), Supervision(heartbeat_s=0.05), FACTORY)
    client.start()
    try:
        await client.ready()
        yield client
    finally:
        await client.close()


async def read_ids(stream: RequestStream) -> tuple[int, ...]:
    return tuple([token_id async for output in stream for token_id in output.token_ids])


async def until_slots_in_use(client: EngineClient, count: int) -> None:
    """Wait for the engine itself to say so."""
    while client.stats.num_slots_in_use != count:
        await asyncio.sleep(0)


async def test_streams_bring_their_own_tokens() -> None:
    async with running() as client:
        items = [((i,), SamplingParams(max_tokens=i + 1, seed=i)) for i in range(10)]
        streams = [client.submit(*item) for item in items[:5]] + client.submit_all(items[5:])
        assert client.num_open_requests == 10
        results = await asyncio.gather(*map(read_ids, streams))
        assert results == [expected_ids(*item) for item in items]
        assert client.num_open_requests == 0


async def test_the_last_output_and_only_it_has_a_reason() -> None:
    async with running(fake_config(Behaviour(step_s=0.002))) as client:
        outputs = [o async for o in client.submit((1,), SamplingParams(max_tokens=5))]
    assert [o.finish_reason for o in outputs[:-1]] == [None] * (len(outputs) - 1)
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    ids = [token_id for o in outputs for token_id in o.token_ids]
    assert [logprob.logprob for o in outputs for logprob in o.logprobs] == [-i for i in ids]


async def test_it_says_what_it_serves_and_how_it_is() -> None:
    async with running() as client:
        assert client.info is not None
        assert client.info == await client.ready()
        assert client.is_up
        assert client.is_ready
        assert client.num_restarts == 0
        seen: list[EngineStats] = []
        client.on_stats.append(seen.append)
        await read_ids(client.submit((1,), SamplingParams(max_tokens=3)))
        assert [stats.num_rows for stats in seen] == [1, 1, 0]  # once a step


async def test_abort_frees_the_slot_for_who_waits() -> None:
    async with running(fake_config(ONE_ENDLESS_AT_A_TIME)) as client:
        first = client.submit((1,), ENDLESS)
        await anext(first)
        second = client.submit((2,), SamplingParams(max_tokens=1))
        first.abort()
        first.abort()
        assert client.num_open_requests == 1
        assert await read_ids(second) == expected_ids((2,), SamplingParams(max_tokens=1))
        assert [o.finish_reason async for o in first][-1] is FinishReason.ABORT
        await until_slots_in_use(client, 0)


async def test_a_waiting_request_can_be_aborted() -> None:
    async with running(fake_config(ONE_ENDLESS_AT_A_TIME)) as client:
        first, second = client.submit_all([((1,), ENDLESS), ((2,), ENDLESS)])
        await anext(first)
        second.abort()
        assert await read_ids(second) == ()
        first.abort()
        await until_slots_in_use(client, 0)


async def test_bad_requests_leave_the_others_alone() -> None:
    async with running() as client:
        with pytest.raises(PromptTooLong):
            client.submit((1,) * 65, WHOLE)
        with pytest.raises(InvalidParams):
            client.submit_all([((1,), WHOLE), ((2,), SamplingParams(max_tokens=-1))])
        assert client.num_open_requests == 0


async def test_the_queue_is_bounded_and_lists_come_in_whole() -> None:
    behaviour = Behaviour(num_slots=2, step_s=0.001)
    async with running(fake_config(behaviour, max_queued_requests=3)) as client:
        streams = client.submit_all([((i,), WHOLE) for i in range(4)])
        with pytest.raises(QueueFull):
            client.submit_all([((7,), WHOLE), ((8,), WHOLE)])
        assert client.num_open_requests == 4
        last = client.submit((9,), WHOLE)
        with pytest.raises(QueueFull) as caught:
            client.submit((9,), WHOLE)
        assert 1 <= caught.value.retry_after_s <= 60
        last.abort()
        streams.append(client.submit((9,), WHOLE))  # there is room again
        results = await asyncio.gather(*map(read_ids, streams))
        assert results == [expected_ids((i,), WHOLE) for i in (0, 1, 2, 3, 9)]


async def test_tokens_in_the_queue_are_bounded() -> None:
    behaviour = Behaviour(num_slots=1, step_s=0.001)
    async with running(fake_config(behaviour, max_queued_tokens=20)) as client:
        client.submit((1,), WHOLE)
        client.submit((2,) * 10, WHOLE)  # alone, however large
        with pytest.raises(QueueFull, match="at most 20 tokens"):
            client.submit((3,), SamplingParams(max_tokens=1))


async def test_a_slow_reader_gets_fewer_outputs_and_every_token() -> None:
    async with running() as client:
        slow = client.submit((1,), WHOLE)
        while client.num_open_requests:
            await asyncio.sleep(0)
        outputs = [output async for output in slow]
        assert len(outputs) == 1
        assert outputs[0].token_ids == expected_ids((1,), WHOLE)


async def test_nothing_is_accepted_before_it_is_ready(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    client = EngineClient(fake_config(Behaviour(gate=str(gate))), factory=FACTORY)
    with pytest.raises(EngineDown, match="loading"):
        client.submit((1,), WHOLE)
    client.start()
    writer = await asyncio.to_thread(gate.open, "wb")  # it has begun
    assert not client.is_ready
    with pytest.raises(EngineDown, match="loading"):
        client.submit((1,), WHOLE)
    writer.close()
    await client.ready()
    assert client.is_ready
    await client.close()


async def test_a_refusal_is_final() -> None:
    client = EngineClient(fake_config(Behaviour(refuse=("no file", "no room"))), factory=FACTORY)
    failures: list[EngineFailed] = []
    client.on_failure.append(failures.append)
    client.start()
    for _ in range(2):
        with pytest.raises(EngineFailed) as caught:
            await client.ready()
        assert caught.value.problems == ["no file", "no room"]
    with pytest.raises(EngineFailed, match="no file; no room"):
        client.submit((1,), WHOLE)
    assert client.num_restarts == 0
    assert len(failures) == 1
    assert not client.is_up
    await client.close()


async def test_close_ends_streams_and_leaves_no_process(caplog: pytest.LogCaptureFixture) -> None:
    async with running(fake_config(Behaviour(step_s=0.001))) as client:
        stream = client.submit((1,), WHOLE)
        await anext(stream)
        pid = client.pid
        assert pid is not None
        await client.close()
        with pytest.raises(RequestFailed, match="shut down"):
            await read_ids(stream)
        with pytest.raises(ProcessLookupError):  # neither running nor a zombie
            os.kill(pid, 0)
        with pytest.raises(EngineDown, match="shut down"):
            client.submit((1,), WHOLE)
        assert not client.is_up
        assert client.num_restarts == 0
        assert caplog.text == ""  # an engine that leaves when told is no death


async def test_everything_open_can_be_ended_with_one_error() -> None:
    async with running(fake_config(Behaviour(step_s=0.001, num_slots=1))) as client:
        streams = client.submit_all([((1,), WHOLE)] * 2)
        await anext(streams[0])
        client.fail_all("no more time")
        for stream in streams:
            with pytest.raises(RequestFailed, match="no more time"):
                await read_ids(stream)
        assert client.num_open_requests == 0
        assert client.is_ready


async def test_close_while_loading(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    client = EngineClient(fake_config(Behaviour(gate=str(gate))), factory=FACTORY)
    client.start()
    waiting = asyncio.create_task(client.ready())
    writer = await asyncio.to_thread(gate.open, "wb")  # it has begun
    pid = client.pid
    assert pid is not None
    await client.close()
    writer.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(EngineDown, match="shut down"):
        await waiting


async def test_close_before_start_and_at_once_after_it() -> None:
    await EngineClient(fake_config(), factory=FACTORY).close()
    client = EngineClient(fake_config(), factory=FACTORY)
    client.start()
    await client.close()
    assert client.pid is None
    with pytest.raises(RuntimeError, match="started once"):
        client.start()


def test_it_runs_on_uvloop() -> None:
    """The loop of the server; its transports differ from asyncio's in small ways."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_streams_bring_their_own_tokens())
