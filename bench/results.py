"""From timings to the figures that are shown: medians, ratios, shares of the floor."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.scenarios import Scenario
from bench.systems import System
from bench.timing import Timing, agreement, median_ratio, percentile

TARGETS = (
    ("one stream", "ours int8", "llama.cpp Q8_0"),
    ("one stream", "ours bfloat16", "llama.cpp BF16"),
    ("one stream", "ours int4", "llama.cpp Q4_0"),
)
"""Pairs that one stream is judged by; batches and prefill by the best of each side."""


@dataclass(frozen=True, slots=True)
class Result:
    """One system in one scenario: medians over the rounds.

    ``step_p50_ms`` and its like are over all steps of all rounds, ``rounds`` are the
    figures that ratios are made of: decode tokens/s, or 1 / s of a prefill. ``floor_share`` is the
    time that reading the weights takes at best, as a share of a step. ``same_ids`` is the share
    of tokens before the first difference from ours in float32.
    """

    scenario: str
    system: str
    num_streams: int
    prefill_ms: float
    decode_rate: float | None
    whole_rate: float | None
    step_p50_ms: float | None
    step_p90_ms: float | None
    step_p99_ms: float | None
    floor_share: float | None
    same_ids: float | None
    rounds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Speed of ours against a peer's: the median of the rounds' ratios, and their range."""

    scenario: str
    ours: str
    peer: str
    ratio: float
    lowest: float
    highest: float


def result(
    scenario: Scenario,
    system: System,
    timings: Sequence[Timing],
    floor_s: float | None,
    reference: Sequence[Timing] | None,
) -> Result:
    """The figures of one system. ``floor_s``: the least that one step can take."""
    prefill_ms = 1e3 * statistics.median(t.prefill_s for t in timings)
    same = None
    if reference:
        pairs = zip(reference, timings, strict=True)
        same = statistics.fmean(agreement(a.token_ids, b.token_ids) for a, b in pairs)
    if scenario.is_prefill:
        speeds = tuple(1 / t.prefill_s for t in timings)
        empty = (None,) * 6
        return Result(scenario.name, system.name, 1, prefill_ms, *empty, same, speeds)
    steps_ms = [1e3 * step_s for t in timings for step_s in t.step_s]
    rates = tuple(t.decode_rate for t in timings)
    step_s = scenario.num_streams / statistics.median(rates)
    return Result(
        scenario.name,
        system.name,
        scenario.num_streams,
        prefill_ms,
        statistics.median(rates),
        statistics.median(t.whole_rate for t in timings),
        percentile(steps_ms, 50),
        percentile(steps_ms, 90),
        percentile(steps_ms, 99),
        floor_s / step_s if floor_s is not None else None,
        same,
        rates,
    )


def ratio(ours: Result, peer: Result) -> Ratio:
    """Ours against one peer, in one scenario."""
    each = [a / b for a, b in zip(ours.rounds, peer.rounds, strict=True)]
    middle = median_ratio(ours.rounds, peer.rounds)
    return Ratio(ours.scenario, ours.system, peer.system, middle, min(each), max(each))


def best(results: Sequence[Result], *, is_ours: bool) -> Result | None:
    """The fastest of one side."""
    side = [r for r in results if r.system.startswith("ours ") == is_ours]
    return max(side, key=lambda r: statistics.median(r.rounds), default=None)


def same_dtype_ratios(results: Sequence[Result], dtypes: Mapping[str, str]) -> Iterator[Ratio]:
    """Each peer against ours in the dtype that stands for its precision. ``dtypes`` by system."""
    by_dtype = {dtypes[r.system]: r for r in results if r.system.startswith("ours ")}
    for peer in results:
        ours = by_dtype.get(dtypes[peer.system])
        if ours is not None and ours is not peer:
            yield ratio(ours, peer)


def target_ratios(results: Sequence[Result]) -> Iterator[Ratio]:
    """One stream by its pairs, everything else by the best of each side."""
    by_scenario: dict[str, list[Result]] = {}
    for found in results:
        by_scenario.setdefault(found.scenario, []).append(found)
    for scenario, some in by_scenario.items():
        by_name = {r.system: r for r in some}
        for name, ours, peer in TARGETS:
            if name == scenario and ours in by_name and peer in by_name:
                yield ratio(by_name[ours], by_name[peer])
        our_best, their_best = best(some, is_ours=True), best(some, is_ours=False)
        if our_best and their_best:
            yield ratio(our_best, their_best)
