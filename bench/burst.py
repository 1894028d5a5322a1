"""Classifications that are all sent at once, by a process of its own.

``python -m bench.burst URL NUM_REQUESTS NUM_WORDS NAME=FORM...`` says that it is there. For each
seed that it reads it sends its requests, a connection each, and prints the monotonic clock before
the first and after the last answer. Who measures the time between tokens must not be late by
sending.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.client import Address, answer_parts, request_bytes

NICE = 10
"""Other people's clients are on other machines; ours shall take as little as can be from the
server."""

WORDS = ("the", "old", "man", "and", "sea", "was", "dark", "by", "night", "when", "nobody", "came")
FIELDS_OF_FORM = {
    "classification": ("text",),
    "entailment": ("premise", "hypothesis"),
    "similarity": ("text_a", "text_b"),
    "multiple_choice": ("context", "choices"),
}


def inputs(form: str, draw: random.Random, num_words: int) -> dict[str, Any]:
    """A random input of a task's form."""

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=num_words))

    return {
        name: [text(), text()] if name == "choices" else text() for name in FIELDS_OF_FORM[form]
    }


@dataclass(slots=True)
class Burst:
    """The process, as the one who started it holds it."""

    process: asyncio.subprocess.Process

    @classmethod
    async def start(
        cls, url: str, forms: Mapping[str, str], num_requests: int, num_words: int
    ) -> Burst:
        """Ready to send, to the tasks of ``forms`` in turn. Raises RuntimeError if it is not."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.burst", url, str(num_requests), str(num_words)),
            *(f"{name}={form}" for name, form in forms.items()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        burst = cls(process)
        if await burst._line() != b"ready\n":
            raise RuntimeError("the process that classifies did not start")
        return burst

    async def send(self, seed: int) -> tuple[float, float]:
        """Seconds of the monotonic clock: before the first request, after the last answer."""
        if self.process.stdin is not None:
            self.process.stdin.write(b"%d\n" % seed)
        line = await self._line()
        if not line:
            raise RuntimeError("a classification failed")
        started_s, answered_s = json.loads(line)
        return started_s, answered_s

    async def close(self) -> None:
        """It ends with what it reads."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        await self.process.wait()

    async def _line(self) -> bytes:
        return b"" if self.process.stdout is None else await self.process.stdout.readline()


async def classify(address: Address, task: str, given: dict[str, Any]) -> None:
    """One classification. Raises HttpError, OSError."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        body = {"model": task, "input": given}
        writer.write(request_bytes(address, "POST", "/v1/classify", body, None))
        json.loads(b"".join([part async for part in await answer_parts(reader)]))
    finally:
        writer.close()


async def classify_all(
    address: Address, forms: Mapping[str, str], num_requests: int, num_words: int, seed: int
) -> tuple[float, float]:
    """All at once; when that began, and when it was over."""
    draw, names = random.Random(seed), list(forms)
    tasks = [names[i % len(names)] for i in range(num_requests)]
    given = [inputs(forms[task], draw, num_words) for task in tasks]
    started_s = time.perf_counter()
    await asyncio.gather(
        *(classify(address, task, one) for task, one in zip(tasks, given, strict=True))
    )
    return started_s, time.perf_counter()


def main() -> None:
    """Send when told to."""
    url, num_requests, num_words, *pairs = sys.argv[1:]
    forms = dict(pair.split("=") for pair in pairs)
    os.nice(NICE)
    print("ready", flush=True)
    for line in sys.stdin:
        given = (Address.of(url), forms, int(num_requests), int(num_words), int(line))
        print(json.dumps(asyncio.run(classify_all(*given))), flush=True)


if __name__ == "__main__":
    main()
