"""A burst of requests does not hold up the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from server import turnstile as module
from server.turnstile import Turnstile

HTTP: Scope = {"type": "http"}


async def receive() -> dict[str, str]:
    return {"type": "http.request"}


async def send(message: object) -> None:
    """Nobody reads."""


class Arrivals:
    """An app that notes in which pass of the loop each request began."""

    def __init__(self) -> None:
        self.passes: list[int] = []
        self.num_passes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.passes.append(self.num_passes)

    async def count_passes(self) -> None:
        while True:
            self.num_passes += 1
            await asyncio.sleep(0)


async def begin(arrivals: Arrivals, turnstile: Turnstile, count: int) -> list[asyncio.Task[None]]:
    counting = asyncio.create_task(arrivals.count_passes())
    tasks = [asyncio.create_task(turnstile(HTTP, receive, send)) for _ in range(count)]
    await asyncio.wait(tasks)
    counting.cancel()
    return tasks


@pytest.mark.parametrize("is_busy", [False, True])
async def test_each_of_a_burst_begins_in_a_pass_of_its_own(is_busy: bool) -> None:
    arrivals = Arrivals()
    turnstile = Turnstile(arrivals, lambda: is_busy)
    await begin(arrivals, turnstile, 64)
    assert len(arrivals.passes) == 64
    assert len(set(arrivals.passes)) == 64


@pytest.mark.parametrize("is_busy", [False, True])
async def test_only_a_busy_engine_gets_pauses(
    monkeypatch: pytest.MonkeyPatch, is_busy: bool
) -> None:
    monkeypatch.setattr(module, "RUN_S", 0.0)
    loop = asyncio.get_running_loop()
    pauses_s: list[float] = []

    def call_later(delay_s: float, *call: Any) -> asyncio.Handle:
        pauses_s.append(delay_s)
        return loop.call_soon(*call)

    monkeypatch.setattr(loop, "call_later", call_later)
    arrivals = Arrivals()
    await begin(arrivals, Turnstile(arrivals, lambda: is_busy), 4)
    assert len(arrivals.passes) == 4
    assert pauses_s == [module.PAUSE_S] * (3 if is_busy else 0)


async def test_a_lone_request_does_not_wait() -> None:
    arrivals = Arrivals()
    turnstile = Turnstile(arrivals, lambda: True)
    for number in range(3):
        turn = turnstile(HTTP, receive, send)
        with pytest.raises(StopIteration):  # it ran to its end without a pause
            turn.send(None)
        assert len(arrivals.passes) == number + 1
        await asyncio.sleep(0)  # the pass ends


async def test_one_that_leaves_while_it_waits_does_not_hold_up_the_others() -> None:
    arrivals = Arrivals()
    turnstile = Turnstile(arrivals, lambda: False)
    tasks = [asyncio.create_task(turnstile(HTTP, receive, send)) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert tasks[1].cancelled()
    assert len(arrivals.passes) == 3


async def test_other_scopes_pass() -> None:
    arrivals = Arrivals()
    turnstile = Turnstile(arrivals, lambda: False)
    await asyncio.gather(*(turnstile({"type": "lifespan"}, receive, send) for _ in range(3)))
    assert len(arrivals.passes) == 3
