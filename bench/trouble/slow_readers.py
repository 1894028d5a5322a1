"""Clients that ask for streams and read nothing: memory is bounded, and nobody else is slowed."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from bench.client import Outcome, complete, request_bytes
from bench.timing import percentile
from bench.trouble.counts import slots_add_up, slots_shown
from bench.trouble.live import MB, POLL_S, LiveServer, serving
from bench.trouble.promise import MAX_INTER_TOKEN_RATIO, SETTLE_S, Extent, Finding

NUM_SLOTS = 8
PROMPT_LEN = 700
NUM_PROBES = 2
PROBE_TOKENS = 900
RECEIVE_BYTES = 4_096
MAX_MB_PER_READER = 2.0
"""8,192 tokens and log probabilities may be unread, of some 150 bytes each, beside full buffers."""
TIMEOUT_S = 120.0
WATCH_S = 0.2


@dataclass(frozen=True, slots=True)
class SlowReaders:
    """``beside_*``: p99 between tokens of a stream beside as many ordinary readers, and beside
    slow ones. ``grown_mb``: by how much the API process grew, at most, with all of them there;
    ``again_mb``: the same with as many after them.
    """

    num_readers: int
    beside_readers_ms: float
    beside_slow_ms: float
    grown_mb: float
    again_mb: float
    has_settled: bool
    slots: str

    def findings(self) -> list[Finding]:
        """What was promised for it."""
        ratio = self.beside_slow_ms / self.beside_readers_ms
        per_reader = self.grown_mb / self.num_readers
        return [
            Finding(
                f"memory: at most {MAX_MB_PER_READER:g} MB for each of {self.num_readers}",
                f"{per_reader:.2f} MB ({self.grown_mb:.0f} in all)",
                per_reader <= MAX_MB_PER_READER,
            ),
            Finding(
                "memory: as many again take no more",
                f"{self.again_mb:.0f} MB after {self.grown_mb:.0f}",
                self.again_mb <= 1.2 * self.grown_mb + 5,
            ),
            Finding(
                f"others wait at most {MAX_INTER_TOKEN_RATIO} times as long as beside readers",
                f"{ratio:.2f} times ({self.beside_readers_ms:.2f} -> {self.beside_slow_ms:.2f} ms)",
                ratio <= MAX_INTER_TOKEN_RATIO,
            ),
            Finding(f"every slot is free {SETTLE_S:g} s later", self.slots, self.has_settled),
        ]


def long_answer(draw: random.Random) -> dict[str, Any]:
    """A megabyte to read that takes the engine little: a prompt with all that was likely too."""
    return {
        "prompt": [draw.randrange(8_000) for _ in range(PROMPT_LEN)],
        "echo": True,
        "max_tokens": 1,
        "logprobs": 20,
        "prompt_logprobs": 20,
        "stream": True,
    }


def probe(draw: random.Random) -> dict[str, Any]:
    """A stream that takes its time."""
    return {
        "prompt": [draw.randrange(8_000) for _ in range(8)],
        "max_tokens": PROBE_TOKENS,
        "ignore_eos": True,
        "stream": True,
    }


async def slow_readers(extent: Extent) -> SlowReaders:
    """Ordinary readers, then as many slow ones, twice. Raises ServerBroken."""
    options = {
        "--slots": NUM_SLOTS,
        "--max-queued-requests": 2 * extent.num_slow,
        "--max-queued-tokens": 2 * extent.num_slow * PROMPT_LEN,
    }
    async with serving(*(str(part) for option in options.items() for part in option)) as server:
        draw = random.Random(13)
        api = psutil.Process(server.process.pid)
        before_mb = api.memory_info().rss / MB
        ordinary = await beside_readers(server, extent.num_slow, draw)
        slow, held_mb = await beside_slow(server, extent.num_slow, draw)
        _, again_mb = await beside_slow(server, extent.num_slow, draw)
        counts = await server.settled()
    return SlowReaders(
        num_readers=extent.num_slow,
        beside_readers_ms=ordinary,
        beside_slow_ms=slow,
        grown_mb=held_mb - before_mb,
        again_mb=again_mb - before_mb,
        has_settled=slots_add_up(counts),
        slots=slots_shown(counts),
    )


async def beside_readers(server: LiveServer, num_readers: int, draw: random.Random) -> float:
    """p99 in milliseconds between tokens of the probes, while so many read as they should."""
    probes = await probing(server, draw)
    others = [
        complete(server.address, long_answer(draw), timeout_s=TIMEOUT_S) for _ in range(num_readers)
    ]
    p99_ms(await asyncio.gather(*others))  # all of them have read their answer
    return p99_ms(await asyncio.gather(*probes))


async def beside_slow(
    server: LiveServer, num_readers: int, draw: random.Random
) -> tuple[float, float]:
    """The same beside clients that read nothing, and the most memory of the API process."""
    is_over = asyncio.Event()
    probes = await probing(server, draw)
    readers = [await slow_reader(server, draw) for _ in range(num_readers)]
    watch = asyncio.create_task(peak_mb(psutil.Process(server.process.pid), is_over))
    try:
        outcomes = await asyncio.gather(*probes)
        await server.settled(TIMEOUT_S)
    finally:
        is_over.set()
        for reader in readers:
            reader.close()
    return p99_ms(outcomes), await watch


async def peak_mb(process: psutil.Process, is_over: asyncio.Event) -> float:
    """The most memory that a process had until the event; to count only its own would stop it."""
    most = 0.0
    while not is_over.is_set():
        most = max(most, process.memory_info().rss / MB)
        await asyncio.sleep(WATCH_S)
    return most


async def probing(server: LiveServer, draw: random.Random) -> list[asyncio.Task[Outcome]]:
    """Long streams that have begun, so that they are beside whatever comes now."""
    body = probe(draw)
    asked = [
        asyncio.create_task(complete(server.address, body, timeout_s=TIMEOUT_S))
        for _ in range(NUM_PROBES)
    ]
    while (await server.counts()).total("requests_running") < NUM_PROBES:
        await asyncio.sleep(POLL_S)
    return asked


def p99_ms(outcomes: Sequence[Outcome]) -> float:
    """Between two events of one stream; NaN without any. Raises RuntimeError if one has failed."""
    if errors := [outcome.error for outcome in outcomes if outcome.error]:
        raise RuntimeError(f"a stream beside slow readers failed: {', '.join(errors)}")
    gaps = [b - a for o in outcomes for a, b in zip(o.event_s, o.event_s[1:], strict=False)]
    return 1e3 * percentile(gaps, 99)


async def slow_reader(server: LiveServer, draw: random.Random) -> socket.socket:
    """A connection with a request on it, whose answer nobody takes."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (server.address.host, server.address.port))
    body = long_answer(draw)
    await loop.sock_sendall(
        sock, request_bytes(server.address, "POST", "/v1/completions", body, None)
    )
    return sock
