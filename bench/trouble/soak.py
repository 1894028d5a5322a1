"""A long load of everything at 80 % of what can be served: nothing grows, nothing is lost."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.client import get_json
from bench.trouble.counts import slots_add_up, slots_shown
from bench.trouble.exchange import Reply, ask
from bench.trouble.live import LiveServer, Usage, serving
from bench.trouble.promise import MAX_SLOPE_MB, Extent, Finding

NUM_SLOTS = 16
SHARE = 0.8
CAPACITY_S = 10.0
WARM_UP_S = 60.0
"""Before the load that is judged: what grows until everything has been used once is no leak."""
SAMPLE_S = 2.0
TIMEOUT_S = 120.0
CONTEXT_LEN = 1_024
REFUSALS = ("429",)
"""Ends that a server may choose at this load; its capacity was measured in another weather."""
WORDS = ("the", "old", "man", "and", "sea", "was", "dark", "by", "night", "when", "nobody", "came")


@dataclass(frozen=True, slots=True)
class Soak:
    """The whole load. Slopes are in MB a minute, after the warm-up."""

    duration_s: float
    requests_per_s: float
    kinds: dict[str, int]
    num_restarts: int
    api_slope_mb: float
    engine_slope_mb: float
    before: Usage
    after: Usage
    usages: tuple[Usage, ...]
    has_settled: bool
    slots: str

    def findings(self) -> list[Finding]:
        """What was promised for it."""
        lost = {k: n for k, n in self.kinds.items() if k not in {"200", "left", *REFUSALS}}
        return [
            Finding(
                f"memory of the API process grows less than {MAX_SLOPE_MB:g} MB a minute",
                f"{self.api_slope_mb:+.2f} MB (at {self.after.api_mb:.0f})",
                self.api_slope_mb < MAX_SLOPE_MB,
            ),
            Finding(
                f"memory of the engine grows less than {MAX_SLOPE_MB:g} MB a minute",
                f"{self.engine_slope_mb:+.2f} MB (at {self.after.engine_mb:.0f})",
                self.engine_slope_mb < MAX_SLOPE_MB,
            ),
            Finding(
                "no descriptor more than before",
                f"API {self.before.api_files} -> {self.after.api_files}, "
                f"engine {self.before.engine_files} -> {self.after.engine_files}",
                self.after.api_files <= self.before.api_files
                and self.after.engine_files <= self.before.engine_files,
            ),
            Finding(
                "no request without an end",
                f"{self.kinds} at {self.requests_per_s:.1f}/s for {self.duration_s:.0f} s",
                not lost and self.kinds.get("200", 0) > 0,
            ),
            Finding(
                "one engine for all of it", f"{self.num_restarts} restarts", not self.num_restarts
            ),
            Finding("every slot is accounted for", self.slots, self.has_settled),
        ]


@dataclass(frozen=True, slots=True)
class Errand:
    """One request; with ``stay_s`` its client leaves after that."""

    path: str
    body: dict[str, Any]
    stay_s: float | None = None


def text(draw: random.Random, num_words: int) -> str:
    """Random words; now and then other requests begin alike, so that prefixes are found."""
    start = draw.choice(("Once upon a time there was a ship. ", "", ""))
    return start * 3 + " ".join(draw.choices(WORDS, k=num_words))


def completion(draw: random.Random, **more: Any) -> Errand:
    """A completion, with what makes it this kind."""
    body = {
        "prompt": text(draw, draw.randint(2, 120)),
        "max_tokens": draw.randint(1, 80),
        "stream": draw.random() < 0.5,
        **more,
    }
    return Errand("/v1/completions", body)


def leaver(draw: random.Random) -> Errand:
    """A client that loses its patience."""
    asked = completion(draw, max_tokens=400, ignore_eos=True)
    return Errand(asked.path, asked.body, stay_s=draw.uniform(0.02, 1.0))


def scored(draw: random.Random) -> Errand:
    """Three continuations of one context."""
    context = text(draw, 30)
    pairs = [{"context": context, "continuation": " " + text(draw, 3)} for _ in range(3)]
    return Errand("/v1/score", {"input": pairs})


def classified(draw: random.Random, task: str) -> Errand:
    """Two texts."""
    return Errand("/v1/classify", {"model": task, "input": [text(draw, 12), text(draw, 30)]})


def errands(task: str | None) -> list[Callable[[random.Random], Errand]]:
    """Every kind, as often as it comes up; ``task`` classifies texts."""
    kinds: list[Callable[[random.Random], Errand]] = [
        *[completion] * 8,
        *[lambda draw: completion(draw, n=3)] * 2,
        *[lambda draw: completion(draw, stop=["the", " night and"])] * 2,
        *[lambda draw: completion(draw, logprobs=5, temperature=0)] * 2,
        lambda draw: completion(draw, echo=True, logprobs=1, max_tokens=4),
        *[scored] * 2,
        *[leaver] * 2,
    ]
    if task is not None:
        kinds += [lambda draw: classified(draw, task)] * 2
    return kinds


class Mix:
    """Sends errands and counts how they ended."""

    def __init__(self, server: LiveServer, task: str | None) -> None:
        self._server = server
        self._draw = random.Random(23)
        self._kinds = errands(task)
        self.seen: Counter[str] = Counter()

    async def run(self) -> None:
        """One errand."""
        errand = self._draw.choice(self._kinds)(self._draw)
        limit_s = errand.stay_s or TIMEOUT_S
        reply = await ask(self._server.address, errand.path, errand.body, timeout_s=limit_s)
        self.seen[ended(errand, reply)] += 1


def ended(errand: Errand, reply: Reply) -> str:
    """How an errand ended, in a word."""
    if errand.stay_s is not None and reply.error == "timeout":
        return "left"
    if reply.error is None and reply.status == 200 and not reply.is_good:
        return "a choice without one end"
    return reply.kind()


async def soak(extent: Extent) -> Soak:
    """Warm up, measure what can be served, then most of that for long. Raises ServerBroken."""
    async with serving("--slots", str(NUM_SLOTS)) as server:
        await fill_slots(server)
        mix = Mix(server, await task_of_texts(server))
        rate = SHARE * await capacity(mix)
        counts, before = await server.settled(), await server.usage()
        await load(server, mix, rate, WARM_UP_S)
        mix.seen.clear()
        usages = await load(server, mix, rate, extent.soak_s)
        settled = await server.settled(TIMEOUT_S)
        return Soak(
            duration_s=extent.soak_s,
            requests_per_s=rate,
            kinds=dict(mix.seen),
            num_restarts=int(settled.since(counts).total("engine_restarts_total")),
            api_slope_mb=slope_a_minute([(one.at_s, one.api_mb) for one in usages]),
            engine_slope_mb=slope_a_minute([(one.at_s, one.engine_mb) for one in usages]),
            before=before,
            after=await server.usage(),
            usages=tuple(usages),
            has_settled=slots_add_up(settled),
            slots=slots_shown(settled),
        )


def slope_a_minute(points: Sequence[tuple[float, float]]) -> float:
    """Of (seconds, value), by least squares. Raises ValueError for fewer than two."""
    if len(points) < 2:
        raise ValueError(f"a slope needs at least 2 samples, got {len(points)}: soak longer")
    return 60 * statistics.linear_regression(*zip(*points, strict=True)).slope


async def fill_slots(server: LiveServer) -> None:
    """Write every position of every slot once, so that its memory is there."""
    bodies = [{"prompt": [slot] * (CONTEXT_LEN - 8), "max_tokens": 8} for slot in range(NUM_SLOTS)]
    asked = (ask(server.address, "/v1/completions", body, timeout_s=TIMEOUT_S) for body in bodies)
    await asyncio.gather(*asked)


async def task_of_texts(server: LiveServer) -> str | None:
    """The name of a task that reads one text, if one is served."""
    models = (await get_json(server.address, "/v1/models"))["data"]
    forms = {one["id"]: one["task"]["form"] for one in models if "task" in one}
    return next((name for name, form in forms.items() if form == "classification"), None)


async def capacity(mix: Mix) -> float:
    """Errands a second with as many at once as there are slots."""
    started_s = time.monotonic()

    async def one_after_another() -> None:
        while time.monotonic() < started_s + CAPACITY_S:
            await mix.run()

    async with asyncio.TaskGroup() as group:
        for _ in range(NUM_SLOTS):
            group.create_task(one_after_another())
    return mix.seen.total() / (time.monotonic() - started_s)


async def load(server: LiveServer, mix: Mix, rate: float, duration_s: float) -> list[Usage]:
    """Errands at random times, whatever becomes of the others; what the server held meanwhile."""
    draw = random.Random(29)
    usages: list[Usage] = []
    started_s = time.monotonic()

    async def watch() -> None:
        for index in itertools.count():
            await asyncio.sleep(max(started_s + index * SAMPLE_S - time.monotonic(), 0))
            usages.append(await server.usage())

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        at_s = started_s
        while (at_s := at_s + draw.expovariate(rate)) < started_s + duration_s:
            await asyncio.sleep(max(at_s - time.monotonic(), 0))
            group.create_task(mix.run())
        watching.cancel()
    return usages
