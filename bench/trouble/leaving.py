"""Clients that leave at random moments: their slots are free again, and every count agrees."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

from bench.trouble.counts import Counts, slots_add_up, slots_shown
from bench.trouble.exchange import ask
from bench.trouble.live import LiveServer, serving
from bench.trouble.promise import SETTLE_S, Extent, Finding

NUM_SLOTS = 8
NUM_AT_ONCE = 100
"""Most of them wait for a slot when they leave."""
NUM_TOKENS = 64
MEAN_STAY_S = 0.5


@dataclass(frozen=True, slots=True)
class Leaving:
    """Clients that sent their request, by what became of them, and what the server counted.

    ``answered``: whole answers that clients saw. ``completed``: choices that came to their own
    end, among them some whose client left a moment before it was told.
    """

    num_clients: int
    answered: int
    left: int
    failed: dict[str, int]
    num_requests: int
    num_admitted: int
    num_ended: int
    completed: int
    has_settled: bool
    slots: str

    def findings(self) -> list[Finding]:
        """What was promised for it."""
        is_equal = (
            self.num_requests == self.num_clients == self.answered + self.left
            and self.num_ended == self.num_admitted
            and self.answered <= self.completed <= self.answered + self.left
        )
        return [
            Finding(f"every slot is free {SETTLE_S:g} s later", self.slots, self.has_settled),
            Finding(
                "client and server counts are equal",
                f"{self.num_clients} clients: {self.answered} answered, {self.left} left; server: "
                f"{self.num_requests} requests, {self.num_admitted} admitted, {self.num_ended} "
                f"ended, {self.completed} of them by themselves",
                is_equal,
            ),
            Finding("no answer but a whole one", f"{self.failed or 'none'}", not self.failed),
        ]


def request(draw: random.Random) -> dict[str, Any]:
    """Streamed or plain, alike."""
    return {
        "prompt": [draw.randrange(8_000) for _ in range(draw.randint(1, 200))],
        "max_tokens": NUM_TOKENS,
        "ignore_eos": True,
        "stream": draw.random() < 0.5,
    }


async def leaving(extent: Extent) -> Leaving:
    """Many clients of little patience, a hundred at a time. Raises ServerBroken."""
    options = ("--slots", str(NUM_SLOTS), "--max-queued-requests", str(2 * NUM_AT_ONCE))
    async with serving(*options) as server:
        kinds = await visits(server, extent.num_leaving)
        return result_of(kinds, await server.settled())


async def visits(server: LiveServer, num_clients: int) -> Counter[str]:
    """How each ended: ``200``, ``timeout`` for those who left, ``unsent``, or what went wrong."""
    draw = random.Random(11)
    room = asyncio.Semaphore(NUM_AT_ONCE)
    kinds: Counter[str] = Counter()

    async def visit() -> None:
        async with room:
            stay_s = draw.expovariate(1 / MEAN_STAY_S)
            reply = await ask(server.address, "/v1/completions", request(draw), timeout_s=stay_s)
        if not reply.is_sent:
            kinds["unsent"] += 1  # gone before there was a connection
            return
        is_whole = reply.is_good or reply.error is not None or reply.status != 200
        kinds[reply.kind() if is_whole else "an answer without an end"] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(num_clients):
            group.create_task(visit())
    return kinds


def result_of(kinds: Counter[str], counts: Counts) -> Leaving:
    """The result, of what the clients saw and what the server counted."""
    reasons = counts.by_label("completions_total", "finish_reason")
    others = {
        kind: count for kind, count in kinds.items() if kind not in {"200", "timeout", "unsent"}
    }
    return Leaving(
        num_clients=kinds.total() - kinds["unsent"],
        answered=kinds["200"],
        left=kinds["timeout"],
        failed=others,
        num_requests=int(counts.total("requests_total", route="/v1/completions")),
        num_admitted=int(counts.total("request_prompt_tokens_count")),
        num_ended=sum(reasons.values()),
        completed=reasons.get("length", 0) + reasons.get("stop", 0),
        has_settled=slots_add_up(counts),
        slots=slots_shown(counts),
    )
