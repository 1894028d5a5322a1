"""The engine process dies, in every way and moment, and its requests do not notice."""

from __future__ import annotations

import asyncio
import itertools
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engine.child import child_environment, describe_exit
from engine.client import EngineClient
from engine.errors import EngineFailed, RequestFailed
from engine.messages import EngineConfig
from engine.request import SamplingParams
from engine.stream import RequestStream
from engine.supervision import RestartBudget, StepPrediction, Supervision
from tests.engine.fake_core import (
    DIE_ID,
    FACTORY,
    RAISE_ID,
    WEDGE_ID,
    Behaviour,
    expected_ids,
    fake_config,
)

QUICK = Supervision(heartbeat_s=0.05, backoff_s=0.0, max_restarts=100)
PARAMS = SamplingParams(max_tokens=60, seed=3)
SLOWLY = Behaviour(num_slots=8, step_s=0.002)
EXIT_S = 10


@asynccontextmanager
async def running(
    config: EngineConfig | None = None, supervision: Supervision = QUICK
) -> AsyncIterator[EngineClient]:
    client = EngineClient(config or fake_config(SLOWLY), supervision, FACTORY)
    client.start()
    try:
        await client.ready()
        yield client
    finally:
        await client.close()


async def read_ids(stream: RequestStream) -> tuple[int, ...]:
    return tuple([token_id async for output in stream for token_id in output.token_ids])


def kill(client: EngineClient, signal_number: int = signal.SIGKILL) -> int:
    pid = client.pid
    assert pid is not None
    os.kill(pid, signal_number)
    return pid


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_restarts_are_counted_within_a_window() -> None:
    budget = RestartBudget(Supervision())
    assert [budget.take(now_s) for now_s in range(6)] == [0.0, 0.5, 1.0, 2.0, 4.0, None]
    assert budget.take(600.0) == 4.0  # the first one is forgotten
    assert budget.take(600.5) is None
    assert budget.take(9000.0) == 0.0


def test_patience_grows_with_the_step() -> None:
    assert Supervision().allowed_silence_s(None) == 300.0
    assert Supervision().allowed_silence_s(0.1) == 30.0
    assert Supervision().allowed_silence_s(3.0) == 60.0


def test_a_step_is_predicted_by_the_one_before_it() -> None:
    """A long prompt after a step of decoding, and first of all, takes longer than that did."""
    prediction = StepPrediction(num_parameters=10**10)
    assert prediction.predict_s(0) == 0.0
    assert prediction.predict_s(512) == 512.0  # nothing is known: a slow core's speed
    prediction.observe(0.1, 4)
    assert prediction.predict_s(2) == 0.1
    assert prediction.predict_s(400) == pytest.approx(10.0)


def test_an_exit_status_in_words() -> None:
    assert describe_exit(-9) == "was killed by SIGKILL"
    assert describe_exit(-99) == "was killed by signal 99"
    assert describe_exit(3) == "ended with exit code 3"


@pytest.mark.parametrize("num_slots", [8, 3])
async def test_eight_streams_survive_sigkill(num_slots: int) -> None:
    """Running and waiting ones alike bring exactly the tokens they would have brought."""
    async with running(fake_config(Behaviour(num_slots=num_slots, step_s=0.002))) as client:
        prompts = [(index, index + 1) for index in range(8)]
        streams = [client.submit(prompt, PARAMS) for prompt in prompts]
        heads = [(await anext(stream)).token_ids for stream in streams[:num_slots]]
        kill(client)
        tails = await asyncio.gather(*map(read_ids, streams))
        found = [(heads[i] if i < num_slots else ()) + tail for i, tail in enumerate(tails)]
        assert found == [expected_ids(prompt, PARAMS) for prompt in prompts]
        assert client.num_restarts == 1


async def test_death_is_noticed_and_requests_are_accepted_meanwhile() -> None:
    async with running() as client:
        kill(client)
        started_s = time.monotonic()
        await until(lambda: not client.is_ready)
        assert time.monotonic() - started_s < 2.0
        meanwhile = client.submit((5,), PARAMS)
        aborted = client.submit((6,), PARAMS)
        aborted.abort()
        assert await read_ids(meanwhile) == expected_ids((5,), PARAMS)
        assert client.is_ready
        assert client.num_open_requests == 0


async def test_twice_in_a_row() -> None:
    async with running() as client:
        stream = client.submit((5,), PARAMS)
        ids: tuple[int, ...] = ()
        for _ in range(2):
            ids += (await anext(stream)).token_ids
            kill(client)
            await until(lambda: not client.is_ready)
            await until(lambda: client.is_ready)
        assert ids + await read_ids(stream) == expected_ids((5,), PARAMS)
        assert client.num_restarts == 2


async def test_death_while_loading(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    client = EngineClient(fake_config(Behaviour(gate=str(gate))), QUICK, FACTORY)
    client.start()
    for _ in range(2):
        with await asyncio.to_thread(gate.open, "wb"):  # it is loading
            pid = kill(client)
            await until(lambda pid=pid: client.pid != pid)  # type: ignore[misc]
    await asyncio.to_thread(gate.write_bytes, b"")
    await client.ready()
    assert client.num_restarts == 2
    assert await read_ids(client.submit((5,), PARAMS)) == expected_ids((5,), PARAMS)
    await client.close()


async def test_a_refusal_after_a_death_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has served before, so it can again: the dead one's memory may not be free yet."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    client = EngineClient(fake_config(Behaviour(gate=str(gate))), QUICK, FACTORY)
    client.start()
    await asyncio.to_thread(gate.write_text, "")
    await client.ready()
    kill(client)
    await asyncio.to_thread(gate.write_text, "no memory left")
    await until(lambda: client.num_restarts == 2)
    await asyncio.to_thread(gate.write_text, "")
    assert await read_ids(client.submit((5,), PARAMS)) == expected_ids((5,), PARAMS)
    assert "refused to start: no memory left" in caplog.text
    await client.close()


@pytest.mark.parametrize("trouble", [signal.SIGKILL, signal.SIGSTOP])
async def test_close_leaves_no_process_whatever_it_is_doing(trouble: signal.Signals) -> None:
    supervision = Supervision(heartbeat_s=0.05, shutdown_s=0.1)
    async with running(supervision=supervision) as client:
        pid = kill(client, trouble)
        await client.close()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert client.pid is None


@pytest.mark.parametrize("poison_id", [DIE_ID, RAISE_ID])
async def test_restarts_used_up(poison_id: int) -> None:
    """Every open request gets one clear error, and so does who comes later."""
    limited = Supervision(heartbeat_s=0.05, backoff_s=0.001, max_restarts=1)
    async with running(supervision=limited) as client:
        failures: list[EngineFailed] = []
        client.on_failure.append(failures.append)
        streams = client.submit_all([((5,), PARAMS), ((poison_id,), PARAMS)])
        for stream in streams:
            with pytest.raises(RequestFailed, match="died too often"):
                await read_ids(stream)
            assert await read_ids(stream) == ()
        with pytest.raises(EngineFailed):
            client.submit((5,), PARAMS)
        assert client.num_restarts == 1
        assert len(failures) == 1
        assert not client.is_up
        assert client.pid is None


@pytest.mark.parametrize("is_idle", [True, False])
async def test_a_stopped_engine_is_replaced(is_idle: bool) -> None:
    impatient = Supervision(heartbeat_s=0.05, silence_s=0.3)
    async with running(supervision=impatient) as client:
        streams = [] if is_idle else [client.submit((5,), PARAMS)]
        ids = [(await anext(stream)).token_ids for stream in streams]
        pid = kill(client, signal.SIGSTOP)
        await until(lambda: client.is_ready and client.pid != pid)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        tails = [await read_ids(stream) for stream in streams]
        assert [a + b for a, b in zip(ids, tails, strict=True)] == [
            expected_ids((5,), PARAMS) for _ in streams
        ]


async def test_an_engine_that_hangs_in_a_step_is_replaced() -> None:
    impatient = Supervision(heartbeat_s=0.05, silence_s=0.3)
    async with running(supervision=impatient) as client:
        stream = client.submit((WEDGE_ID,), PARAMS)
        assert await read_ids(stream) == expected_ids((WEDGE_ID,), PARAMS)
        assert client.num_restarts == 1


async def test_a_pause_of_our_own_is_not_held_against_the_engine() -> None:
    """A stopped job or a suspended machine: the clock went on, and nobody could listen."""
    impatient = Supervision(heartbeat_s=0.05, silence_s=0.3)
    async with running(supervision=impatient) as client:
        pid = client.pid
        time.sleep(0.5)  # blocking the loop is the point
        assert await read_ids(client.submit((5,), PARAMS)) == expected_ids((5,), PARAMS)
        assert client.pid == pid


async def test_loading_has_a_bound_of_its_own(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    config = fake_config(Behaviour(gate=str(gate)))
    supervision = Supervision(heartbeat_s=0.05, silence_s=60, loading_s=0.3, max_restarts=0)
    client = EngineClient(config, supervision, FACTORY)
    client.start()
    with pytest.raises(EngineFailed, match="no sign of life"):
        await client.ready()
    await client.close()


async def test_another_model_does_not_continue_a_text() -> None:
    """The checkpoint was replaced on disk: the rest would not be what it would have been."""
    behaviour = Behaviour(step_s=0.002, fingerprint_is_pid=True)
    async with running(fake_config(behaviour)) as client:
        stream = client.submit((5,), PARAMS)
        await anext(stream)
        kill(client)
        with pytest.raises(RequestFailed, match="model changed"):
            await read_ids(stream)
        assert len(await read_ids(client.submit((5,), PARAMS))) == 60


async def test_twenty_deaths_under_load_leak_nothing() -> None:
    """Nor a token: eight streams at a time, killed whenever each of them has brought something."""
    async with running() as client:
        num_fds = len(os.listdir("/proc/self/fd"))
        texts: list[bool] = []

        async def read_on(number: int) -> None:
            for seed in itertools.count(number, step=8):
                params = SamplingParams(max_tokens=40, seed=seed)
                texts.append(
                    await read_ids(client.submit((seed % 89,), params))
                    == expected_ids((seed % 89,), params)
                )
                if client.num_restarts == 20:
                    return

        readers = asyncio.gather(*(read_on(number) for number in range(8)))
        for _ in range(20):
            await until(lambda: client.stats.num_running == 8)
            pid = kill(client)
            await until(lambda pid=pid: client.is_ready and client.pid != pid)  # type: ignore[misc]
        await readers
        assert all(texts)
        assert len(texts) >= 8
        assert client.num_restarts == 20
        assert client.num_open_requests == 0
        assert len(os.listdir("/proc/self/fd")) == num_fds
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        assert children.read_text().split() == [str(client.pid)]


PARENT = """
import asyncio, sys
from engine.client import EngineClient
from tests.engine.fake_core import FACTORY, fake_config

async def main():
    client = EngineClient(fake_config(), factory=FACTORY)
    client.start()
    await client.ready()
    print(client.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux to watch a grandchild")
@pytest.mark.parametrize("is_stopped", [False, True])
def test_the_engine_dies_with_its_parent(is_stopped: bool) -> None:
    """Also while stopped, when it could not read that its socket is closed."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], env=child_environment(), stdout=subprocess.PIPE
    )
    with parent:
        assert parent.stdout is not None
        engine_pid = int(parent.stdout.readline())
        engine = os.pidfd_open(engine_pid)
        try:
            if is_stopped:
                os.kill(engine_pid, signal.SIGSTOP)
            parent.kill()
            assert select.select([engine], [], [], EXIT_S)[0], "the engine outlives its parent"
        finally:
            os.close(engine)
