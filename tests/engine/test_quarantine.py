"""A request that kills the engine is found, refused, and harms nobody else."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.client import EngineClient
from engine.crash_report import CrashFolder
from engine.errors import KillsEngine
from engine.quarantine import Quarantine, fingerprint
from engine.request import Request, SamplingParams, TaskParams
from engine.stream import RequestStream
from engine.supervision import Supervision
from tests.engine.fake_core import (
    DIE_ID,
    FACTORY,
    RAISE_ID,
    Behaviour,
    expected_ids,
    fake_config,
)

QUICK = Supervision(heartbeat_s=0.05, backoff_s=0.0)
PARAMS = SamplingParams(max_tokens=60, seed=3)


async def read_ids(stream: RequestStream) -> tuple[int, ...]:
    return tuple([token_id async for output in stream for token_id in output.token_ids])


def made(seed: int = 0, **params: Any) -> Request:
    return Request(1, (1, 2), SamplingParams(seed=seed, **params))


@pytest.mark.parametrize("poison_id", [DIE_ID, RAISE_ID])
async def test_the_poisonous_request_alone_fails(poison_id: int) -> None:
    """Two deaths, a trial of each of the eight that ran, a third death; nobody else notices."""
    client = EngineClient(fake_config(Behaviour(num_slots=8, step_s=0.001)), QUICK, FACTORY)
    client.start()
    await client.ready()
    prompts = [(i, i + 1) for i in range(11)]
    items: list[tuple[tuple[int, ...], SamplingParams | TaskParams]] = [
        (prompt, PARAMS) for prompt in prompts
    ]
    items.insert(5, ((poison_id,), PARAMS))
    streams = client.submit_all(items)
    poison = streams.pop(5)
    texts = asyncio.gather(*map(read_ids, streams))
    with pytest.raises(KillsEngine, match="engine process died"):
        await read_ids(poison)
    late = client.submit((70,), PARAMS)
    assert await texts == [expected_ids(prompt, PARAMS) for prompt in prompts]
    assert await read_ids(late) == expected_ids((70,), PARAMS)
    assert client.num_restarts == 3
    for seed in (3, 4):  # it drew nothing: its seed had no say
        with pytest.raises(KillsEngine):
            client.submit((poison_id,), msgspec.structs.replace(PARAMS, seed=seed))
    assert client.num_restarts == 3
    assert client.num_open_requests == 0
    await client.close()


async def test_whoever_asks_the_same_is_refused_without_another_death() -> None:
    client = EngineClient(fake_config(Behaviour(num_slots=8)), QUICK, FACTORY)
    client.start()
    await client.ready()
    streams = client.submit_all(
        [((DIE_ID,), SamplingParams(choice_index=i, seed=7)) for i in range(4)]
    )
    for stream in streams:
        with pytest.raises(KillsEngine):
            await read_ids(stream)
    assert await read_ids(client.submit((5,), PARAMS)) == expected_ids((5,), PARAMS)
    assert client.num_restarts == 3
    await client.close()


async def test_a_suspect_that_leaves_lets_the_others_go_on() -> None:
    """It ran alone; without a word to the client nothing would follow it."""
    client = EngineClient(fake_config(Behaviour(step_s=0.001)), QUICK, FACTORY)
    client.start()
    await client.ready()
    suspect = client.submit((6,), PARAMS)
    entry = client._open.get(suspect.request_id)
    assert entry is not None
    entry.is_suspect = True
    other = client.submit((5,), PARAMS)
    await anext(suspect)
    suspect.abort()
    assert await read_ids(other) == expected_ids((5,), PARAMS)
    await client.close()


@pytest.mark.parametrize("has_ids", [False, True])
async def test_each_death_leaves_a_report_that_tells_nothing_of_what_was_written(
    tmp_path: Path, *, has_ids: bool
) -> None:
    crashes = CrashFolder(tmp_path / "crashes", has_ids=has_ids, max_reports=2)
    client = EngineClient(fake_config(), QUICK, FACTORY, crashes)
    client.start()
    await client.ready()
    params = SamplingParams(stop_token_ids=(71, 72, 73), logit_bias=((74, 1.5),))
    with pytest.raises(KillsEngine):
        await read_ids(client.submit((RAISE_ID, 75, 76), params))
    await client.close()
    files = sorted(crashes.path.iterdir())
    assert len(files) == 2  # of three; neither temporary files nor the oldest stay
    text = files[-1].read_text()
    report = json.loads(text)
    (request,) = report["requests"]
    assert (report["reason"], report["exit_code"]) == ("ended with exit code 1", 1)
    assert report["last_step"]["num_tokens"] == 1
    assert (request["num_prompt_ids"], request["num_blames"]) == (3, 3)
    assert request["params"]["max_tokens"] == 16
    assert "a step that breaks, as asked for by a test" in report["output"]
    assert {"python", "torch", "gpt2-server"} <= set(report["versions"])
    assert request.get("prompt_ids") == ([RAISE_ID, 75, 76] if has_ids else None)
    assert request["params"]["stop_token_ids"] == ([71, 72, 73] if has_ids else 3)
    assert ("[75, 76]" in report["output"]) == has_ids
    assert files[-1].stat().st_mode & 0o077 == 0


async def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    crashes = CrashFolder(tmp_path / "file")
    client = EngineClient(fake_config(), QUICK, FACTORY, crashes)
    client.start()
    await client.ready()
    with pytest.raises(KillsEngine):
        await read_ids(client.submit((DIE_ID,), PARAMS))
    assert "no crash report could be written" in caplog.text
    assert await read_ids(client.submit((5,), PARAMS)) == expected_ids((5,), PARAMS)
    await client.close()


def test_a_fingerprint_is_of_everything_that_is_computed() -> None:
    task = msgspec.structs.replace(made(), task=TaskParams("mood"))
    others = [made(temperature=0.5), Request(1, (1,), SamplingParams()), task]
    known = {fingerprint(request, has_seed=False) for request in (made(), *others)}
    assert len(known) == 4
    same = msgspec.structs.replace(made(seed=9), request_id=77, priority=3)
    assert fingerprint(same, has_seed=False) == fingerprint(made(), has_seed=False)
    assert fingerprint(same, has_seed=True) != fingerprint(made(), has_seed=True)


def test_what_died_of_its_draws_is_held_with_its_seed_and_the_oldest_is_let_go() -> None:
    quarantine = Quarantine(max_fingerprints=2)
    quarantine.add(made(seed=5), num_drawn=3)
    assert quarantine.holds(made(seed=5))
    assert not quarantine.holds(made(seed=6))
    quarantine.add(made(top_k=1), num_drawn=0)
    quarantine.add(made(top_k=2), num_drawn=0)
    assert not quarantine.holds(made(seed=5))
    assert quarantine.holds(made(seed=77, top_k=2))
