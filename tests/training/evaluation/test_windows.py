"""Each token once, with enough before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.windows import windows


@given(st.integers(2, 60), st.integers(1, 12), st.data())
def test_each_token_but_the_first_is_scored_once(
    num_ids: int, window_len: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window_len))
    ids = range(num_ids)
    found = windows(ids, window_len, stride)
    scored = [token for item in found for token in item.ids[item.scored_from :]]
    assert scored == list(ids[1:])
    for item in found:
        assert item.num_scored >= 1
        assert len(item.ids) <= window_len + 1
        assert item.scored_from >= 1
    for item in found[1:]:
        assert item.scored_from == window_len - stride + 1


def test_windows_that_do_not_overlap_share_the_token_that_predicts() -> None:
    found = windows(range(8), 3, 3)
    assert [item.ids for item in found] == [(0, 1, 2, 3), (3, 4, 5, 6), (6, 7)]
    assert {item.scored_from for item in found} == {1}


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (2, 2), (99, 3), (None, 3)])
def test_a_limit_counts_windows(limit: int | None, count: int) -> None:
    assert len(windows(range(8), 3, 3, limit)) == count


def test_one_token_has_nothing_to_be_scored_by() -> None:
    assert windows([5], 3, 1) == []
