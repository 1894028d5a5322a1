"""Ours and the peers side by side: the same weights, the same prompts, in turn, in one run.

Each system is a process of its own that sleeps while another is measured.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.child import Worker
from bench.comparison import Disturbance, alternate, disturbed, ready, running
from bench.floor import ReadBandwidth
from bench.machine import circumstances
from bench.plots import plot_peers
from bench.report import json_line, table
from bench.results import Ratio, Result, result, same_dtype_ratios, target_ratios
from bench.scenarios import PREFILLS, PROMPT_LEN, STREAMS, Scenario, decoding, fitting, prefill
from bench.shapes import Shape, prepared_shape
from bench.systems import DTYPES, PEERS, System, installed, ours, versions

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PeersOptions:
    """What to measure. ``checkpoint`` instead of random weights of ``size``."""

    size: str = "gpt2"
    checkpoint: Path | None = None
    dtypes: tuple[str, ...] = DTYPES
    peers: tuple[str, ...] = ()
    streams: tuple[int, ...] = STREAMS
    prefills: tuple[int, ...] = PREFILLS
    prompt_len: int = PROMPT_LEN
    num_tokens: int | None = None
    rounds: int = 5
    num_threads: int = 2
    is_screening: bool = True
    plots: Path | None = None


@dataclass
class Report:
    """Everything that a run found."""

    shape: Shape
    results: list[Result] = field(default_factory=list)
    same_dtype: list[Ratio] = field(default_factory=list)
    targets: list[Ratio] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    screened: list[str] = field(default_factory=list)
    bandwidths: list[float] = field(default_factory=list)
    disturbances: list[Disturbance] = field(default_factory=list)
    idle_cpu_s: dict[str, float] = field(default_factory=dict)

    @property
    def bandwidth(self) -> float:
        """Bytes a second, the median over the rounds."""
        return statistics.median(self.bandwidths)

    def floor_s(self, dtype: str) -> float:
        """The least time in which the weights of a token can be read."""
        return self.shape.weight_bytes(dtype) / self.bandwidth


def run(options: PeersOptions, say: Say) -> dict[str, Any]:
    """Measure, print the tables and the JSON line; the values of that line.

    Raises CheckpointError.
    """
    chosen = [p for p in PEERS if not options.peers or p.library in options.peers]
    systems, missing = installed([*map(ours, options.dtypes), *chosen])
    with tempfile.TemporaryDirectory(prefix="gpt2-bench-") as name:
        say("writing the weights ...")
        shape = prepared_shape(options.size, options.checkpoint, Path(name))
        report = measure(options, shape, systems, missing, Path(name), say)
    values = {
        **circumstances("peers", options.num_threads, versions(systems)),
        **as_values(report),
    }
    for line in lines(report, options):
        print(line)
    if options.plots is not None:
        plot_peers(report.results, options.plots)
    print(json_line(values))
    return values


def measure(
    options: PeersOptions,
    shape: Shape,
    systems: Sequence[System],
    missing: Sequence[str],
    scratch: Path,
    say: Say,
) -> Report:
    """All scenarios."""
    wanted = [decoding(n, options.prompt_len, options.num_tokens) for n in options.streams]
    wanted += [prefill(length) for length in options.prefills]
    scenarios, too_long = fitting(wanted, shape.config.num_positions)
    report = Report(shape)
    bandwidth = ReadBandwidth(options.num_threads)
    max_streams = max((s.num_streams for s in scenarios), default=1)
    starting = [
        Worker(system, shape.folder, scratch, options.num_threads, max_streams)
        for system in systems
    ]
    with running(starting):
        entrants = ready(starting, [*missing, *too_long], say)
        report.bandwidths.append(bandwidth.measure())
        for scenario in scenarios:
            timings = alternate(
                entrants,
                scenario,
                shape.config.vocab_size,
                options.rounds,
                say,
                between=lambda: report.bandwidths.append(bandwidth.measure()),
                is_screening=options.is_screening,
            )
            add_results(report, scenario, timings, systems)
    report.left_out = entrants.left_out
    report.screened = entrants.screened
    report.disturbances = entrants.disturbances
    report.idle_cpu_s = {w.system.name: w.idle_cpu_s for w in entrants.workers}
    return report


def add_results(
    report: Report, scenario: Scenario, timings: dict[str, Any], systems: Sequence[System]
) -> None:
    """The figures of one scenario."""
    dtypes = {system.name: system.dtype for system in systems}
    reference = timings.get("ours float32")
    found = [
        result(scenario, system, timings[system.name], report.floor_s(system.dtype), reference)
        for system in systems
        if system.name in timings
    ]
    report.results += found
    report.same_dtype += same_dtype_ratios(found, dtypes)
    report.targets += target_ratios(found)


def lines(report: Report, options: PeersOptions) -> Iterator[str]:
    """The tables for people."""
    yield f"{report.shape.name}, {options.num_threads} threads, {options.rounds} rounds"
    floors = (f"{dtype} {1e3 * report.floor_s(dtype):.2f} ms" for dtype in DTYPES)
    yield f"reads {report.bandwidth / 1e9:.1f} GB/s; the floor of a token: {', '.join(floors)}"
    against = {(r.scenario, r.peer): r.ratio for r in report.same_dtype}
    for scenario in dict.fromkeys(r.scenario for r in report.results):
        some = [r for r in report.results if r.scenario == scenario]
        yield ""
        yield scenario_table(scenario, some, against)
    yield ""
    yield table(
        ("ours against the peer", "ours", "peer", "ratio", "lowest", "highest"),
        [(r.scenario, r.ours, r.peer, r.ratio, r.lowest, r.highest) for r in report.targets],
    )
    yield from (f"left out: {reason}" for reason in report.left_out)
    yield from report.screened
    yield from disturbed(report.disturbances)
    name, idle_s = max(report.idle_cpu_s.items(), key=lambda item: item[1], default=("-", 0.0))
    yield f"processor time taken out of turn: at most {idle_s:.2f} s, by {name}"


def scenario_table(
    scenario: str, results: Sequence[Result], against: dict[tuple[str, str], float]
) -> str:
    """One scenario; the last column is ours in the same dtype against the system."""
    heads = (scenario, "prefill ms", "decode tok/s", "whole tok/s", "p50 ms", "p99 ms")
    return table(
        (*heads, "of the floor", "same ids", "ours/this"),
        [
            (
                *(r.system, r.prefill_ms, r.decode_rate, r.whole_rate),
                *(r.step_p50_ms, r.step_p99_ms),
                *(r.floor_share if r.num_streams == 1 else None, r.same_ids),
                against.get((scenario, r.system)),
            )
            for r in results
        ],
    )


def as_values(report: Report) -> dict[str, Any]:
    """For the JSON line."""
    return {
        "shape": report.shape.name,
        "read_bytes_per_s": report.bandwidth,
        "floor_ms": {dtype: 1e3 * report.floor_s(dtype) for dtype in DTYPES},
        "results": [asdict(r) for r in report.results],
        "ratios": [asdict(r) for r in report.same_dtype],
        "targets": [asdict(r) for r in report.targets],
        "left_out": report.left_out,
        "screened": report.screened,
        "disturbances": [asdict(d) for d in report.disturbances],
        "idle_cpu_s": report.idle_cpu_s,
    }
