"""A running server under load: ours, vLLM, llama-server, or any with OpenAI's completions.

Open loop (``rates``): requests arrive by a Poisson process, whatever the server does. Closed
loop (``concurrencies``): so many at once, always.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.client import Address, HttpError, Outcome, complete, get_json
from bench.load import Summary, closed_loop, open_loop, poisson_times, summary
from bench.machine import circumstances
from bench.plots import draw
from bench.report import json_line, table

Say = Callable[[str], None]


class ServerUnknown(Exception):
    """There is no server with a model at the URL."""


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """What to send. Prompts are random token ids below ``max_token_id``, other ones each time.

    A load lasts ``duration_s``, or ``num_requests`` if that is given. Without ``is_plain`` answers
    are streams.
    """

    url: str
    rates: tuple[float, ...] = ()
    concurrencies: tuple[int, ...] = ()
    num_requests: int | None = None
    duration_s: float = 30.0
    prompt_len: int = 128
    num_tokens: int = 64
    max_token_id: int = 8_000
    is_plain: bool = False
    model: str | None = None
    token: str | None = None
    seed: int = 0
    timeout_s: float = 300.0
    plots: Path | None = None


def run(options: ServingOptions, say: Say) -> dict[str, Any]:
    """Measure, print the table and the JSON line; the values of that line.

    Raises ServerUnknown, and ValueError for an impossible URL.
    """
    address = Address.of(options.url)
    summaries = asyncio.run(measure(options, address, say))
    values = {
        **circumstances("serving", 1, {}),
        "url": options.url,
        "prompt_len": options.prompt_len,
        "num_tokens": options.num_tokens,
        "is_plain": options.is_plain,
        "results": [asdict(found) for found in summaries],
    }
    for line in lines(summaries):
        print(line)
    if options.plots is not None:
        plot(summaries, options.plots)
    print(json_line(values))
    return values


async def measure(options: ServingOptions, address: Address, say: Say) -> list[Summary]:
    """Every load, after one uncounted request. Raises ServerUnknown."""
    model = options.model or await first_model(address, options.token)
    load = Load(options, address, model)
    await load.send(0)  # uncounted
    summaries = []
    for rate in options.rates:
        say(f"{rate:g} requests/s ...")
        count = options.num_requests or max(round(rate * options.duration_s), 1)
        times = poisson_times(rate, count, options.seed)
        summaries.append(await _timed(f"{rate:g} requests/s", open_loop(load.send, times)))
    for concurrency in options.concurrencies:
        say(f"{concurrency} at once ...")
        duration_s = options.duration_s if options.num_requests is None else math.inf
        looping = closed_loop(load.send, concurrency, options.num_requests, duration_s)
        summaries.append(await _timed(f"{concurrency} at once", looping))
    return summaries


async def _timed(name: str, looping: Awaitable[list[Outcome]]) -> Summary:
    cpu_s = time.process_time()
    outcomes = await looping
    return summary(name, outcomes, time.process_time() - cpu_s)


async def first_model(address: Address, token: str | None) -> str:
    """The name of what is served there. Raises ServerUnknown."""
    try:
        answer = await get_json(address, "/v1/models", token)
        return str(answer["data"][0]["id"])
    except (HttpError, OSError, ValueError, KeyError, IndexError, EOFError) as error:
        place = f"http://{address.host}:{address.port}{address.prefix}/v1/models"
        raise ServerUnknown(f"{place}: {error or type(error).__name__}") from error


class Load:
    """Makes and sends requests, each with a prompt of its own."""

    def __init__(self, options: ServingOptions, address: Address, model: str) -> None:
        self._options = options
        self._address = address
        self._model = model
        self._draw = random.Random(options.seed)

    async def send(self, _index: int) -> Outcome:
        """One request."""
        return await complete(
            self._address,
            self.body(),
            timeout_s=self._options.timeout_s,
            token=self._options.token,
        )

    def body(self) -> dict[str, Any]:
        """Greedy, to the full length; usage in the last event."""
        values: dict[str, Any] = {
            "model": self._model,
            "prompt": [
                self._draw.randrange(self._options.max_token_id)
                for _ in range(self._options.prompt_len)
            ],
            "max_tokens": self._options.num_tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        if not self._options.is_plain:
            values |= {"stream": True, "stream_options": {"include_usage": True}}
        return values


def lines(summaries: Sequence[Summary]) -> Iterator[str]:
    """The table for people."""
    columns = ("TTFT p50/p90/p99 ms", "between tokens ms", "end to end ms")
    yield table(
        ("load", "requests", "failed", "tokens/s", "in flight", *columns, "client CPU"),
        [
            (
                *(s.load, s.num_requests, s.num_requests - s.num_succeeded),
                *(s.tokens_per_s, s.mean_in_flight),
                *(
                    "" if math.isnan(p.p50) else f"{p.p50:,.1f} / {p.p90:,.1f} / {p.p99:,.1f}"
                    for p in (s.first_token_ms, s.inter_token_ms, s.end_to_end_ms)
                ),
                f"{s.client_cpu:.0%} of a core",
            )
            for s in summaries
        ],
    )
    for s in summaries:
        if s.errors:
            yield f"{s.load}: " + ", ".join(f"{count} {kind}" for kind, count in s.errors.items())


def plot(summaries: Sequence[Summary], folder: Path) -> list[Path]:
    """Throughput and latency against the requests in flight."""

    def points(value: Callable[[Summary], float]) -> list[tuple[float, float]]:
        found = [(s.mean_in_flight, value(s)) for s in summaries]
        return [point for point in found if not math.isnan(point[1])]

    throughput = {"tokens/s": points(lambda s: s.tokens_per_s)}
    latency = {
        "first token, p50": points(lambda s: s.first_token_ms.p50),
        "first token, p99": points(lambda s: s.first_token_ms.p99),
        "between tokens, p50": points(lambda s: s.inter_token_ms.p50),
        "between tokens, p99": points(lambda s: s.inter_token_ms.p99),
    }
    in_flight = "requests in flight, mean"
    return [
        draw(folder / "serving-throughput.png", throughput, in_flight, "tokens/s"),
        draw(folder / "serving-latency.png", latency, in_flight, "ms"),
    ]
