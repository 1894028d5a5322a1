"""Malformed and hostile requests: each is refused, and nobody else notices."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bench.client import answer_head
from bench.trouble.counts import slots_add_up, slots_shown
from bench.trouble.exchange import ask
from bench.trouble.hostile_bodies import Case, cases
from bench.trouble.live import LiveServer, serving
from bench.trouble.promise import Extent, Finding

NUM_AT_ONCE = 8
NUM_DRIPPING = 20
DRIP_S = 0.3
HEADER_TIMEOUT_S = 3.0
MAX_DRIPPING_S = 2 * HEADER_TIMEOUT_S
TIMEOUT_S = 60.0
ALLOWED_5XX = ("503", "504")
OPTIONS = ("--slots", "8", "--header-timeout-s", f"{HEADER_TIMEOUT_S:g}")
BESIDE: dict[str, Any] = {"prompt": "It was", "max_tokens": 60, "seed": 5, "stream": True}


@dataclass(frozen=True, slots=True)
class Hostile:
    """Answers by status; ``faults`` names cases with an answer that must not be."""

    num_cases: int
    statuses: dict[str, int]
    faults: tuple[str, ...]
    num_beside: int
    num_harmed: int
    longest_drip_s: float
    num_restarts: int
    is_alive: bool
    has_settled: bool
    slots: str

    def findings(self) -> list[Finding]:
        """What was promised for it."""
        return [
            Finding(
                "no 5xx but 503 and 504, and an answer or a hang-up for each",
                f"{self.num_cases} cases: {self.statuses}"
                + (f"; {', '.join(self.faults[:5])}" if self.faults else ""),
                not self.faults,
            ),
            Finding(
                "others get what they would have got",
                f"{self.num_harmed} of {self.num_beside} harmed",
                self.num_harmed == 0 and self.num_beside > 0,
            ),
            Finding(
                f"a header that drips in is cut off within {MAX_DRIPPING_S:g} s",
                f"{self.longest_drip_s:.1f} s at most",
                self.longest_drip_s <= MAX_DRIPPING_S,
            ),
            Finding(
                "the server lives, with the engine it had",
                f"{'alive' if self.is_alive else 'dead'}, {self.num_restarts} restarts",
                self.is_alive and self.num_restarts == 0,
            ),
            Finding("every slot is accounted for", self.slots, self.has_settled),
        ]


async def hostile(extent: Extent) -> Hostile:
    """Every case, so many times over, beside one honest stream. Raises ServerBroken."""
    async with serving(*OPTIONS) as server:
        expected = await ask(server.address, "/v1/completions", BESIDE, timeout_s=TIMEOUT_S)
        is_over = asyncio.Event()
        beside = asyncio.create_task(stay_beside(server, is_over))
        dripping = [asyncio.create_task(drip(server)) for _ in range(NUM_DRIPPING)]
        given = [case for _ in range(extent.hostile_rounds) for case in cases()]
        answers = await send_all(server, given)
        drips = await asyncio.gather(*dripping)
        is_over.set()
        texts = await beside
        counts = await server.settled(TIMEOUT_S)
        return Hostile(
            num_cases=len(given),
            statuses=dict(Counter(answers)),
            faults=tuple(faults(given, answers)),
            num_beside=len(texts),
            num_harmed=sum(one != expected.texts for one in texts),
            longest_drip_s=max(drips),
            num_restarts=int(counts.total("engine_restarts_total")),
            is_alive=server.is_alive,
            has_settled=slots_add_up(counts),
            slots=slots_shown(counts),
        )


def faults(given: list[Case], answers: list[str]) -> list[str]:
    """Cases whose answer must not be, with it."""
    return [
        f"{case.name}: {answer}"
        for case, answer in zip(given, answers, strict=True)
        if not is_allowed(case, answer)
    ]


def is_allowed(case: Case, answer: str) -> bool:
    """A whole request has a status; none is a 5xx but those that tell of load."""
    if answer in {"silence", "hung up"}:
        return answer == "hung up" and case.is_cut
    return not answer.startswith("5") or answer in ALLOWED_5XX


async def send_all(server: LiveServer, given: list[Case]) -> list[str]:
    """The answers, in the order of the cases, a few cases at a time."""
    room = asyncio.Semaphore(NUM_AT_ONCE)

    async def send_one(case: Case) -> str:
        async with room:
            return await send(server, case)

    return await asyncio.gather(*(send_one(case) for case in given))


async def send(server: LiveServer, case: Case) -> str:
    """The status; ``hung up`` without one, or ``silence``."""
    reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            with suppress(ConnectionError):  # it may hang up before it has read everything
                writer.write(case.data)
                await writer.drain()
                if case.is_cut:
                    writer.write_eof()
            status, _ = await answer_head(reader)
            while await reader.read(1 << 16):
                pass
            return str(status)
    except TimeoutError:
        return "silence"
    except (EOFError, OSError):
        return "hung up"
    finally:
        writer.close()


async def stay_beside(server: LiveServer, is_over: asyncio.Event) -> list[dict[int, str]]:
    """The texts of an honest client that asks the same again and again."""
    texts = []
    while not is_over.is_set():
        reply = await ask(server.address, "/v1/completions", BESIDE, timeout_s=TIMEOUT_S)
        texts.append(reply.texts if reply.is_good else {})
    return texts


async def drip(server: LiveServer) -> float:
    """Seconds until the server has had enough of a header that never ends."""
    started_s = time.monotonic()
    reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
    try:
        writer.write(b"GET /health HTTP/1.1\r\nX-Slow: ")
        while time.monotonic() - started_s < 2 * MAX_DRIPPING_S:
            writer.write(b"a")
            with suppress(TimeoutError):
                async with asyncio.timeout(DRIP_S):
                    await reader.read()
                    break
    except OSError:
        pass
    finally:
        writer.close()
    return time.monotonic() - started_s
