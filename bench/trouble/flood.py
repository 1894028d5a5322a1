"""Most of an overload, in a process of its own: who measures must not be late by sending it.

``python -m bench.trouble.flood URL RATE NUM_REQUESTS SEED`` says that it is there, begins at the
first line it reads, and prints how the requests ended, as a JSON object of counts.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

from bench.client import Address, Outcome, complete
from bench.load import open_loop, poisson_times

PROMPT_LEN = 64
NUM_TOKENS = 128
TIMEOUT_S = 60.0
NICE = 10
"""Other people's clients are on other machines; ours shall take as little as can be from the
server."""


class Sender:
    """Sends streams of equal length, each with a prompt of its own, and counts their ends."""

    def __init__(self, address: Address, seed: int) -> None:
        self._address = address
        self._draw = random.Random(seed)
        self.seen: Counter[str] = Counter()

    async def send(self, _index: int) -> Outcome:
        """One of them."""
        body: dict[str, Any] = {
            "prompt": [self._draw.randrange(8_000) for _ in range(PROMPT_LEN)],
            "max_tokens": NUM_TOKENS,
            "ignore_eos": True,
            "stream": True,
        }
        outcome = await complete(self._address, body, timeout_s=TIMEOUT_S)
        self.seen[kind_of(outcome)] += 1
        return outcome


def kind_of(outcome: Outcome) -> str:
    """The status of the answer, or what went wrong instead."""
    return (outcome.error or "200").removeprefix("status ")


@dataclass(slots=True)
class Flood:
    """The process, as the one who started it holds it."""

    process: asyncio.subprocess.Process

    @classmethod
    async def start(cls, address: Address, rate: float, num_requests: int, seed: int) -> Flood:
        """Ready to begin. Raises RuntimeError if it is not."""
        url = f"http://{address.host}:{address.port}"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.trouble.flood", url),
            *(str(rate), str(num_requests), str(seed)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        if process.stdout is None or await process.stdout.readline() != b"ready\n":
            raise RuntimeError("the flood did not start")
        return cls(process)

    def begin(self) -> None:
        """Now."""
        if self.process.stdin is not None:
            self.process.stdin.write(b"begin\n")

    async def ended(self) -> Counter[str]:
        """How its requests ended, once all have. Raises ValueError if it did not say."""
        out, _ = await self.process.communicate()
        return Counter(json.loads(out))


def main() -> None:
    """Send and count."""
    url, rate, num_requests, seed = sys.argv[1:]
    os.nice(NICE)
    sender = Sender(Address.of(url), int(seed))
    times_s = poisson_times(float(rate), int(num_requests), int(seed))
    print("ready", flush=True)
    sys.stdin.readline()
    asyncio.run(open_loop(sender.send, times_s))
    print(json.dumps(sender.seen))


if __name__ == "__main__":
    main()
