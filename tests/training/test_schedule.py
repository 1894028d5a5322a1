"""The learning rate over a run, and where the long windows begin."""

from __future__ import annotations

from itertools import pairwise

import pytest

from training.schedule import Schedule


def schedule(**changes: float) -> Schedule:
    values = {"num_steps": 100, "warmup_steps": 10, "window_len": 64, "short_window_len": 16}
    return Schedule(**{**values, "short_share": 0.75, **changes})  # type: ignore[arg-type]


def test_rate_climbs_to_its_peak_and_falls_to_almost_nothing() -> None:
    rates = [schedule().rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.5)  # half way down the cosine
    assert 0 < rates[-1] < 0.001


def test_rate_without_warmup_starts_at_the_peak() -> None:
    assert schedule(warmup_steps=0).rate_at(0) == 1.0


def test_a_run_shorter_than_its_warmup_only_climbs() -> None:
    rates = [schedule(num_steps=4).rate_at(step) for step in range(4)]
    assert rates == [0.25, 0.5, 0.75, 1.0]


def test_short_windows_come_first_in_whole_groups() -> None:
    lengths = [schedule(num_steps=50).window_len_at(step) for step in range(50)]
    assert lengths == [16] * 36 + [64] * 14  # 37 is three quarters, groups are of four steps


def test_one_window_length_throughout() -> None:
    same = schedule(short_window_len=64, short_share=0.0)
    assert {same.window_len_at(step) for step in range(100)} == {64}
