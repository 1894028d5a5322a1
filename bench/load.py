"""The load: when requests are sent, and the figures of what came back. No torch."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.client import Outcome
from bench.timing import percentile

Send = Callable[[int], Awaitable[Outcome]]
"""Sends the request with this index."""


def poisson_times(rate: float, num_requests: int, seed: int) -> list[float]:
    """Seconds after the start at which requests arrive, whatever has become of the others."""
    draw = random.Random(seed)
    times, now_s = [], 0.0
    for _ in range(num_requests):
        now_s += draw.expovariate(rate)
        times.append(now_s)
    return times


async def open_loop(send: Send, times_s: Iterable[float]) -> list[Outcome]:
    """Each request at its time. A late server makes a queue and not a slower client."""
    started_s = time.perf_counter()
    tasks: list[asyncio.Task[Outcome]] = []
    async with asyncio.TaskGroup() as group:
        for index, at_s in enumerate(times_s):
            await asyncio.sleep(max(started_s + at_s - time.perf_counter(), 0))
            tasks.append(group.create_task(_outcome(send, index)))
    return [task.result() for task in tasks]


async def closed_loop(
    send: Send, concurrency: int, num_requests: int | None, duration_s: float
) -> list[Outcome]:
    """Always ``concurrency`` requests, a new one for each that ends.

    None is begun after ``duration_s``, nor after ``num_requests``.
    """
    outcomes: list[Outcome] = []
    indices = itertools.count() if num_requests is None else iter(range(num_requests))
    end_s = time.perf_counter() + duration_s

    async def one_after_another() -> None:
        for index in indices:
            outcomes.append(await send(index))
            if time.perf_counter() > end_s:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(one_after_another())
    return outcomes


async def _outcome(send: Send, index: int) -> Outcome:
    return await send(index)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds."""

    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Percentiles:
        """NaN where there is nothing."""
        return cls(*(1e3 * percentile(seconds, percent) for percent in (50, 90, 99)))


@dataclass(frozen=True, slots=True)
class Summary:
    """One load. Latencies are of requests that succeeded; errors are counted by kind.

    ``client_cpu`` is the share of one core that this client took.
    """

    load: str
    num_requests: int
    num_succeeded: int
    errors: dict[str, int]
    elapsed_s: float
    tokens_per_s: float
    requests_per_s: float
    mean_in_flight: float
    first_token_ms: Percentiles
    inter_token_ms: Percentiles
    end_to_end_ms: Percentiles
    client_cpu: float


def summary(load: str, outcomes: Sequence[Outcome], client_cpu_s: float) -> Summary:
    """The figures. Time runs from the first request sent to the last answer's end."""
    good = [outcome for outcome in outcomes if outcome.error is None]
    errors = Counter(outcome.error for outcome in outcomes if outcome.error is not None)
    started_s = min(outcome.started_s for outcome in outcomes)
    elapsed_s = max(outcome.ended_s for outcome in outcomes) - started_s
    gaps = [b - a for o in good for a, b in zip(o.event_s, o.event_s[1:], strict=False)]
    lasted = [outcome.ended_s - outcome.started_s for outcome in good]
    return Summary(
        load=load,
        num_requests=len(outcomes),
        num_succeeded=len(good),
        errors=dict(sorted(errors.items())),
        elapsed_s=elapsed_s,
        tokens_per_s=sum(outcome.tokens for outcome in good) / elapsed_s,
        requests_per_s=len(good) / elapsed_s,
        mean_in_flight=sum(o.ended_s - o.started_s for o in outcomes) / elapsed_s,
        first_token_ms=Percentiles.of([o.event_s[0] - o.started_s for o in good if o.event_s]),
        inter_token_ms=Percentiles.of(gaps),
        end_to_end_ms=Percentiles.of(lasted),
        client_cpu=client_cpu_s / elapsed_s,
    )
