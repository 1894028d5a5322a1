"""The engine killed and stopped under load: every answer is what it would have been."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from bench.trouble.counts import slots_add_up, slots_shown
from bench.trouble.exchange import Reply, ask
from bench.trouble.live import LiveServer, Usage, is_engine, serving
from bench.trouble.promise import Extent, Finding

NUM_SLOTS = 8
TIMEOUT_S = 120.0
BOTH = (signal.SIGKILL, signal.SIGSTOP) * 3
OPTIONS = (
    *("--slots", str(NUM_SLOTS), "--silence-s", "1"),
    *("--max-restarts", "1000", "--restart-window-s", "3"),
)
"""A pause before a restart doubles with each restart in the window, which is therefore short."""


@dataclass(frozen=True, slots=True)
class EngineFaults:
    """Answers of all loads under fault, beside those of an undisturbed one."""

    num_signals: int
    num_answers: int
    kinds: dict[str, int]
    num_different: int
    num_requests: int
    num_restarts: int
    num_orphans: int
    num_zombies: int
    before: Usage
    after: Usage
    has_settled: bool
    slots: str

    def findings(self) -> list[Finding]:
        """What was promised for it."""
        is_whole = set(self.kinds) == {"200"}
        grown = max(
            self.after.api_files - self.before.api_files,
            self.after.engine_files - self.before.engine_files,
        )
        return [
            Finding(
                "every answer is what it would have been",
                f"{self.num_answers} answers, {self.num_different} different, {self.kinds}",
                is_whole and self.num_different == 0,
            ),
            Finding(
                "client and server counts are equal",
                f"{self.num_answers} answers, {self.num_requests} requests; "
                f"{self.num_signals} signals, {self.num_restarts} restarts",
                self.num_answers == self.num_requests and self.num_signals == self.num_restarts,
            ),
            Finding(
                "no process is left over",
                f"{self.num_orphans} orphans, {self.num_zombies} zombies",
                self.num_orphans == self.num_zombies == 0,
            ),
            Finding(
                "no descriptor is left over",
                f"API {self.before.api_files} -> {self.after.api_files}, "
                f"engine {self.before.engine_files} -> {self.after.engine_files}",
                grown <= 0,
            ),
            Finding("every slot is accounted for", self.slots, self.has_settled),
        ]


def requests(count: int) -> list[dict[str, Any]]:
    """Seeded, every second one a stream, every third one of two choices."""
    draw = random.Random(17)
    return [
        {
            "prompt": [draw.randrange(8_000) for _ in range(draw.randint(4, 120))],
            "max_tokens": 150,
            "ignore_eos": True,
            "seed": index,
            "n": 2 if index % 3 == 0 else 1,
            "stream": index % 2 == 0,
        }
        for index in range(count)
    ]


async def engine_faults(extent: Extent) -> EngineFaults:
    """An undisturbed load, then one under both signals, then many kills in a row.

    Raises ServerBroken.
    """
    async with serving(*OPTIONS) as server:
        bodies = requests(extent.num_disturbed)
        expected = await asyncio.gather(*(_ask(server, body) for body in bodies))
        before = await server.usage()
        counts = await server.settled()
        signals = [*BOTH, *([signal.SIGKILL] * extent.num_kills)]
        pids: set[int] = {(await server.engine()).pid}
        replies = await under_fault(server, bodies, signals, pids)
        await server.ready()
        after_counts = (await server.settled()).since(counts)
        now = (await server.engine()).pid
        settled = await server.settled()
        return EngineFaults(
            num_signals=len(signals),
            num_answers=len(replies),
            kinds=dict(Counter(reply.kind() for _, reply in replies)),
            num_different=sum(reply.texts != expected[index].texts for index, reply in replies),
            num_requests=int(after_counts.total("requests_total", route="/v1/completions")),
            num_restarts=int(after_counts.total("engine_restarts_total")),
            num_orphans=sum(is_there(pid) for pid in pids - {now}),
            num_zombies=zombies(server),
            before=before,
            after=await server.usage(),
            has_settled=slots_add_up(settled),
            slots=slots_shown(settled),
        )


async def under_fault(
    server: LiveServer,
    bodies: Sequence[dict[str, Any]],
    signals: Sequence[signal.Signals],
    pids: set[int],
) -> list[tuple[int, Reply]]:
    """The requests again and again until all signals are sent, each to an engine that runs.

    Replies with the index of their request. Adds the engines' process ids to ``pids``.
    """
    replies: list[tuple[int, Reply]] = []
    is_over = asyncio.Event()
    indices = itertools.cycle(range(len(bodies)))

    async def one_after_another() -> None:
        while not is_over.is_set():
            index = next(indices)
            replies.append((index, await _ask(server, bodies[index])))

    async with asyncio.TaskGroup() as group:
        for _ in range(2 * NUM_SLOTS):
            group.create_task(one_after_another())
        try:
            await send_signals(server, signals, pids)
        finally:
            is_over.set()
    return replies


async def send_signals(
    server: LiveServer, signals: Sequence[signal.Signals], pids: set[int]
) -> None:
    """One after another, each at a random moment of an engine that serves."""
    draw = random.Random(19)
    last: int | None = None
    for sent in signals:
        engine = await server.engine(other_than=last)
        await server.ready()
        await asyncio.sleep(draw.uniform(0.1, 1.0))
        pids.add(engine.pid)
        with suppress(psutil.NoSuchProcess):
            engine.send_signal(sent)
        last = engine.pid


async def _ask(server: LiveServer, body: dict[str, Any]) -> Reply:
    return await ask(server.address, "/v1/completions", body, timeout_s=TIMEOUT_S)


def is_there(pid: int) -> bool:
    """Whether an engine process still has this id."""
    return psutil.pid_exists(pid) and is_engine(psutil.Process(pid))


def zombies(server: LiveServer) -> int:
    """Children of the server that ended and were not reaped."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return sum(child.status() == psutil.STATUS_ZOMBIE for child in children)
