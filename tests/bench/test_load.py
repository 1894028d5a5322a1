"""Arrivals by seed, the two loops, and the figures."""

from __future__ import annotations

import asyncio
import math
import statistics

import pytest

from bench.client import Outcome
from bench.load import closed_loop, open_loop, poisson_times, summary


def test_arrivals_are_poisson_and_repeatable() -> None:
    times = poisson_times(50.0, 4000, seed=3)
    assert times == poisson_times(50.0, 4000, seed=3)
    assert times != poisson_times(50.0, 4000, seed=4)
    gaps = [b - a for a, b in zip([0.0, *times], times, strict=False)]
    assert min(gaps) > 0
    assert statistics.fmean(gaps) == pytest.approx(1 / 50, rel=0.1)
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.1)  # exponential


async def test_an_open_loop_waits_for_no_answer() -> None:
    """The first request is answered only once the last has been sent."""
    last = asyncio.Event()

    async def send(index: int) -> Outcome:
        if index == 2:
            last.set()
        await last.wait()
        return Outcome(float(index))

    outcomes = await open_loop(send, [0.0, 0.0, 0.0])
    assert [outcome.started_s for outcome in outcomes] == [0.0, 1.0, 2.0]


async def test_a_closed_loop_keeps_its_number_and_no_more() -> None:
    running: list[int] = []
    most = 0

    async def send(index: int) -> Outcome:
        nonlocal most
        running.append(index)
        most = max(most, len(running))
        await asyncio.sleep(0)
        running.remove(index)
        return Outcome(0.0)

    assert len(await closed_loop(send, 3, 10, math.inf)) == 10
    assert most == 3


async def test_a_closed_loop_ends_with_its_time() -> None:
    async def send(_index: int) -> Outcome:
        await asyncio.sleep(0)
        return Outcome(0.0)

    assert len(await closed_loop(send, 4, None, -1.0)) == 4


def test_figures() -> None:
    good = Outcome(0.0, [1.0, 1.5, 3.0], 4.0, num_tokens=6)
    bad = [Outcome(1.0, [], 2.0, error="status 429"), Outcome(1.0, [], 2.0, error="timeout")]
    found = summary("x", [good, *bad, bad[0]], client_cpu_s=1.0)
    assert found.errors == {"status 429": 2, "timeout": 1}
    assert (found.num_requests, found.num_succeeded) == (4, 1)
    assert found.tokens_per_s == 1.5
    assert found.mean_in_flight == (4 + 1 + 1 + 1) / 4
    assert found.first_token_ms.p50 == 1000
    assert (found.inter_token_ms.p50, found.inter_token_ms.p99) == (500, 1500)
    assert found.end_to_end_ms.p90 == 4000
    assert found.client_cpu == 0.25


def test_figures_of_nothing_but_failures() -> None:
    found = summary("x", [Outcome(0.0, [], 1.0, error="timeout")], 0.0)
    assert found.tokens_per_s == 0
    assert math.isnan(found.first_token_ms.p50)
