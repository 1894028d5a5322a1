"""The bare engine: scenarios by dtype, one process for each dtype, in turn within one run."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.child import Worker
from bench.comparison import Disturbance, Field, alternate, disturbed, ready, running
from bench.machine import circumstances
from bench.plots import plot_peers
from bench.report import json_line, table
from bench.results import Result, result
from bench.scenarios import PREFILLS, PROMPT_LEN, STREAMS, Scenario, decoding, fitting, prefill
from bench.shapes import Shape, prepared_shape
from bench.systems import DTYPES, ours, versions

Say = Callable[[str], None]

MEMORY_STREAMS = 32
LATE_STREAMS = 32


@dataclass(frozen=True, slots=True)
class OfflineOptions:
    """What to measure. ``checkpoint`` instead of random weights of ``size``."""

    size: str = "gpt2"
    checkpoint: Path | None = None
    dtypes: tuple[str, ...] = DTYPES
    streams: tuple[int, ...] = STREAMS
    prefills: tuple[int, ...] = PREFILLS
    prompt_len: int = PROMPT_LEN
    num_tokens: int | None = None
    late_streams: int = LATE_STREAMS
    rounds: int = 5
    num_threads: int = 2
    plots: Path | None = None


@dataclass(frozen=True, slots=True)
class LateArrival:
    """A request that comes while others decode: medians, from its arrival."""

    system: str
    num_streams: int
    first_token_ms: float
    others_ended_ms: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident after all slots were written to the end. ``above_bytes``: more than both others."""

    system: str
    resident_bytes: int
    weight_bytes: int
    cache_bytes: int

    @property
    def above_bytes(self) -> int:
        """Above weights and cache."""
        return self.resident_bytes - self.weight_bytes - self.cache_bytes


@dataclass
class Report:
    """Everything that a run found."""

    results: list[Result] = field(default_factory=list)
    late: list[LateArrival] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    disturbances: list[Disturbance] = field(default_factory=list)


def run(options: OfflineOptions, say: Say) -> dict[str, Any]:
    """Measure, print the tables and the JSON line; the values of that line.

    Raises CheckpointError.
    """
    with tempfile.TemporaryDirectory(prefix="gpt2-bench-") as name:
        say("writing the weights ...")
        shape = prepared_shape(options.size, options.checkpoint, Path(name))
        report = measure(options, shape, Path(name), say)
    values = {
        **circumstances("offline", options.num_threads, versions([])),
        "shape": shape.name,
        "results": [asdict(r) for r in report.results],
        "late_arrival": [asdict(late) for late in report.late],
        "memory": [{**asdict(m), "above_bytes": m.above_bytes} for m in report.memory],
        "left_out": report.left_out,
        "disturbances": [asdict(d) for d in report.disturbances],
    }
    print(f"{shape.name}, {options.num_threads} threads, {options.rounds} rounds")
    for line in lines(report):
        print(line)
    if options.plots is not None:
        plot_peers(report.results, options.plots)
    print(json_line(values))
    return values


def measure(options: OfflineOptions, shape: Shape, scratch: Path, say: Say) -> Report:
    """All scenarios, and the memory last."""
    wanted = [decoding(n, options.prompt_len, options.num_tokens) for n in options.streams]
    wanted += [prefill(length) for length in options.prefills]
    scenarios, too_long = fitting(wanted, shape.config.num_positions)
    systems = [ours(dtype) for dtype in options.dtypes]
    max_streams = max([options.late_streams + 1, *(s.num_streams for s in scenarios)])
    workers = [Worker(s, shape.folder, scratch, options.num_threads, max_streams) for s in systems]
    report = Report()
    with running(workers):
        entrants = ready(workers, too_long, say)
        for scenario in scenarios:
            timings = alternate(entrants, scenario, shape.config.vocab_size, options.rounds, say)
            reference = timings.get("ours float32")
            report.results += [
                result(scenario, system, timings[system.name], None, reference)
                for system in systems
                if system.name in timings
            ]
        report.late = late_arrivals(options, shape, entrants, say)
    report.left_out = entrants.left_out
    report.disturbances = entrants.disturbances
    measured = [worker.system.dtype for worker in entrants.workers]
    report.memory = [memory(options, shape, scratch, dtype, say) for dtype in measured]
    return report


def late_arrivals(
    options: OfflineOptions, shape: Shape, entrants: Field, say: Say
) -> list[LateArrival]:
    """One more prompt, once the others decode."""
    say("a late arrival ...")
    running_ones = decoding(options.late_streams, options.prompt_len, options.num_tokens)
    found: dict[str, list[dict[str, Any]]] = {}
    for index in range(options.rounds):
        *prompts, late = Scenario("late", options.late_streams + 1, options.prompt_len, 1).prompts(
            shape.config.vocab_size, index
        )
        for worker in entrants.workers:
            answer = worker.ask(
                "late_arrival", prompts=prompts, late=late, num_tokens=running_ones.num_tokens
            )
            found.setdefault(worker.system.name, []).append(answer)
    return [
        LateArrival(
            name,
            options.late_streams,
            1e3 * statistics.median(answer["first_token_s"] for answer in answers),
            1e3 * statistics.median(answer["end_s"] for answer in answers),
        )
        for name, answers in found.items()
    ]


def memory(options: OfflineOptions, shape: Shape, scratch: Path, dtype: str, say: Say) -> Memory:
    """A process whose slots are as long as the requests, so that all of the cache is written."""
    say(f"memory of {dtype} ...")
    count = min(MEMORY_STREAMS, max(options.streams))
    scenario = decoding(count, options.prompt_len, options.num_tokens)
    worker = Worker(
        ours(dtype), shape.folder, scratch, options.num_threads, count, scenario.total_len
    )
    with running([worker]):
        worker.await_ready()
        worker.generate(scenario.prompts(shape.config.vocab_size, 0), scenario.num_tokens)
        answer = worker.ask("memory")
    return Memory(
        worker.system.name,
        answer["resident_bytes"],
        round(shape.stored_bytes(dtype)),
        answer["cache_bytes"],
    )


def lines(report: Report) -> Iterator[str]:
    """The tables for people."""
    for scenario in dict.fromkeys(r.scenario for r in report.results):
        yield ""
        yield scenario_table(scenario, [r for r in report.results if r.scenario == scenario])
    yield ""
    yield table(
        ("a late arrival", "while there run", "its first token, ms", "the others end, ms"),
        [(x.system, x.num_streams, x.first_token_ms, x.others_ended_ms) for x in report.late],
    )
    yield ""
    sizes = ("resident", "weights", "cache", "above both")
    yield table(
        ("memory, MB", *sizes),
        [
            (
                m.system,
                *(
                    n / 1e6
                    for n in (m.resident_bytes, m.weight_bytes, m.cache_bytes, m.above_bytes)
                ),
            )
            for m in report.memory
        ],
    )
    yield from (f"left out: {reason}" for reason in report.left_out)
    yield from disturbed(report.disturbances)


def scenario_table(scenario: str, results: Sequence[Result]) -> str:
    """One scenario by dtype."""
    rates = ("prefill ms", "decode tok/s", "whole tok/s")
    return table(
        (scenario, *rates, "step p50 ms", "p90 ms", "p99 ms", "same ids"),
        [
            (
                *(r.system, r.prefill_ms, r.decode_rate, r.whole_rate),
                *(r.step_p50_ms, r.step_p90_ms, r.step_p99_ms, r.same_ids),
            )
            for r in results
        ],
    )
