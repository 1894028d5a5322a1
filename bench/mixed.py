"""Classifications beside running streams: how much later does a stream's next token come?

``python -m bench.mixed --task NAME [--task NAME] [--url URL]`` against a running server. In each
round 16 streams run, one after another; the time between their tokens is taken for a while, then
64 classifications are sent at once (bench/burst.py), and it is taken until the last of them is
answered. Prints the 99th percentiles, their ratio, and a JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bench.burst import Burst
from bench.client import Address, Outcome, complete, get_json

PROMPT_LEN = 32


@dataclass(frozen=True, slots=True)
class MixedOptions:
    """What to send. A stream has ``num_tokens``, a text to classify ``num_words``."""

    url: str
    tasks: tuple[str, ...]
    num_streams: int = 16
    num_requests: int = 64
    num_tokens: int = 700
    num_words: int = 24
    quiet_s: float = 1.0
    rounds: int = 5


@dataclass(frozen=True, slots=True)
class Round:
    """One round, in milliseconds. ``answered_ms`` is the time until the last answer."""

    quiet_p99_ms: float
    mixed_p99_ms: float
    answered_ms: float

    @property
    def ratio(self) -> float:
        """How much longer the streams waited."""
        return self.mixed_p99_ms / self.quiet_p99_ms


def gaps(outcomes: Sequence[Outcome], start_s: float, end_s: float) -> list[float]:
    """Seconds between two tokens of one stream, of which the later came in the window."""
    return [
        later - earlier
        for outcome in outcomes
        for earlier, later in zip(outcome.event_s, outcome.event_s[1:], strict=False)
        if start_s <= later < end_s
    ]


def p99_ms(values: Sequence[float]) -> float:
    """The 99th percentile. Raises ValueError for fewer than two."""
    if len(values) < 2:
        raise ValueError(f"needs at least 2 gaps, got {len(values)}: the streams were too short")
    return 1e3 * statistics.quantiles(values, n=100, method="inclusive")[98]


async def stream_on(
    options: MixedOptions, address: Address, draw: random.Random, is_over: asyncio.Event
) -> list[Outcome]:
    """One stream after another, the last of them to its end. Raises SystemExit if one fails."""
    outcomes = []
    while not is_over.is_set():
        body = {
            "prompt": [draw.randrange(500) for _ in range(PROMPT_LEN)],
            "max_tokens": options.num_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        outcomes.append(await complete(address, body, timeout_s=300))
        if outcomes[-1].error:
            raise SystemExit(f"a stream failed: {outcomes[-1].error}")
    return outcomes


async def one_round(options: MixedOptions, address: Address, burst: Burst, seed: int) -> Round:
    """Streams alone, then with classifications beside them."""
    draw = random.Random(seed)
    is_over = asyncio.Event()
    streams = [
        asyncio.create_task(stream_on(options, address, draw, is_over))
        for _ in range(options.num_streams)
    ]
    await asyncio.sleep(options.quiet_s)
    quiet_s = time.perf_counter()
    await asyncio.sleep(options.quiet_s)
    sent_s, answered_s = await burst.send(seed)
    is_over.set()
    outcomes = [outcome for found in await asyncio.gather(*streams) for outcome in found]
    return Round(
        p99_ms(gaps(outcomes, quiet_s, sent_s)),
        p99_ms(gaps(outcomes, sent_s, answered_s)),
        1e3 * (answered_s - sent_s),
    )


async def run(options: MixedOptions) -> list[Round]:
    """All rounds, after one that is not counted."""
    address = Address.of(options.url)
    models = (await get_json(address, "/v1/models"))["data"]
    forms = {one["id"]: one["task"]["form"] for one in models if "task" in one}
    if missing := [name for name in options.tasks if name not in forms]:
        raise SystemExit(f"not a task that is served: {', '.join(missing)}")
    asked = {name: forms[name] for name in options.tasks}
    burst = await Burst.start(options.url, asked, options.num_requests, options.num_words)
    found = [await one_round(options, address, burst, seed) for seed in range(options.rounds + 1)]
    await burst.close()
    return found[1:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--task", dest="tasks", action="append", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num-tokens", type=int, default=700)
    given = parser.parse_args()
    options = MixedOptions(
        given.url, tuple(given.tasks), rounds=given.rounds, num_tokens=given.num_tokens
    )
    rounds = asyncio.run(run(options))
    for one in rounds:
        print(
            f"p99 between tokens {one.quiet_p99_ms:.2f} -> {one.mixed_p99_ms:.2f} ms, "
            f"{one.ratio:.2f} times; {options.num_requests} answers in {one.answered_ms:.0f} ms"
        )
    ratio = statistics.median(one.ratio for one in rounds)
    print(f"median ratio {ratio:.2f}")
    print(json.dumps({**asdict(options), "ratio": ratio, "rounds": [asdict(r) for r in rounds]}))


if __name__ == "__main__":
    main()
