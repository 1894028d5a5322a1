"""Figures that are made of timings."""

from __future__ import annotations

import math

import pytest

from bench.timing import Stopwatch, Timing, agreement, median_ratio, percentile

TIMING = Timing(1.0, (0.5, 0.5), ((1, 2, 3), (4, 5, 6)))


def test_rates() -> None:
    assert TIMING.decode_rate == 4.0
    assert TIMING.whole_rate == 3.0


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (50, 2), (51, 3), (75, 3), (100, 4)])
def test_percentiles(percent: float, value: float) -> None:
    assert percentile([4, 2, 3, 1], percent) == value


def test_a_percentile_of_nothing() -> None:
    assert math.isnan(percentile([], 50))


def test_ratios_are_taken_round_by_round() -> None:
    """A slow moment hits both: the ratio of the medians would be 10 / 10."""
    assert median_ratio([10, 2, 20], [5, 1, 10]) == 2


def test_agreement_ends_at_the_first_difference() -> None:
    assert agreement([[1, 2, 3, 4]], [[1, 2, 9, 4]]) == 0.5
    assert agreement([[1, 2], [3, 4]], [[1, 2], [3, 4]]) == 1
    assert math.isnan(agreement([], []))


def test_a_stopwatch_by_laps() -> None:
    watch = Stopwatch()
    watch.lap()
    watch.lap()
    timing = watch.timing([[1, 2]])
    assert len(timing.step_s) == 1
    assert timing.prefill_s >= 0


def test_a_stopwatch_by_step_takes_the_last_lap_of_each() -> None:
    """A callback for each of two rows, in two steps."""
    watch = Stopwatch()
    for step in (0, 0, 1, 1):
        watch.lap(step)
    assert len(watch.timing([[1, 2], [3, 4]]).step_s) == 1
