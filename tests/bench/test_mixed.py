"""Gaps between tokens before and while something is classified."""

from __future__ import annotations

import random

import pytest

from bench.burst import inputs
from bench.client import Outcome
from bench.mixed import Round, gaps, p99_ms
from server.classify import FIELDS


def test_a_gap_belongs_to_the_window_in_which_it_ends() -> None:
    first, second = Outcome(0.0, [1.0, 2.0, 4.0, 7.0]), Outcome(0.0, [3.5, 3.75])
    assert gaps([first, second], 2.0, 7.0) == [1.0, 2.0, 0.25]
    assert gaps([first, second], 7.0, 9.0) == [3.0]
    assert gaps([], 0.0, 9.0) == []


def test_percentile_and_ratio() -> None:
    assert p99_ms([0.001] * 99 + [0.1]) == pytest.approx(1.99, abs=0.01)
    assert Round(2.0, 3.0, 10.0).ratio == 1.5
    with pytest.raises(ValueError, match="needs at least 2 gaps, got 1"):
        p99_ms([1.0])


def test_inputs_have_the_fields_of_their_form() -> None:
    for form, fields in FIELDS.items():
        assert tuple(inputs(form, random.Random(0), 5)) == fields
