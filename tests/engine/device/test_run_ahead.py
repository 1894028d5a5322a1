from __future__ import annotations

import pytest

from engine.device.run_ahead import MAX_AHEAD, MIN_AHEAD, RunAhead


@pytest.mark.parametrize(
    ("host_s", "step_s", "expected"),
    [(1e-4, 1e-3, 2), (1e-3, 1e-3, 2), (1.1e-3, 1e-3, 3), (5e-3, 1e-3, 6), (1.0, 1e-3, 8)],
)
def test_as_many_as_fit_into_a_pass_of_the_host_and_one_more(
    host_s: float, step_s: float, expected: int
) -> None:
    ahead = RunAhead()
    ahead.observe_host(host_s)
    ahead.observe_step(step_s)
    assert ahead.depth(has_waiting=False) == expected
    assert ahead.depth(has_waiting=True) == MIN_AHEAD


def test_it_begins_short_and_follows_what_it_sees() -> None:
    ahead = RunAhead()
    assert ahead.depth(has_waiting=False) == MIN_AHEAD
    ahead.observe_step(1e-3)
    for _ in range(30):
        ahead.observe_host(0.1)
    assert ahead.depth(has_waiting=False) == MAX_AHEAD
    for _ in range(30):
        ahead.observe_host(1e-4)
    assert ahead.depth(has_waiting=False) == MIN_AHEAD


def test_a_fixed_depth_stays() -> None:
    assert RunAhead(fixed=5).depth(has_waiting=True) == 5
