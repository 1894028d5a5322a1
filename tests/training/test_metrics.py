"""The metrics on values that were worked out by hand, and on the edges."""

from __future__ import annotations

import math

import pytest

from training.metrics import class_metrics, f1, matthews, pearson, score_metrics, spearman

FOUND = [1, 1, 1, 0, 0, 0, 1, 0]
WANTED = [1, 1, 0, 0, 0, 1, 1, 1]
"""3 true and 1 false positive, 2 true and 2 false negatives."""


def test_two_classes() -> None:
    found = class_metrics(FOUND, WANTED)
    assert [*found] == ["accuracy", "f1", "matthews"]
    assert found["accuracy"] == pytest.approx(5 / 8)
    assert found["f1"] == pytest.approx(2 * 3 / (4 + 5))
    assert found["matthews"] == pytest.approx((3 * 2 - 1 * 2) / math.sqrt(4 * 5 * 3 * 4))


def test_more_classes_have_an_accuracy_only() -> None:
    assert class_metrics([0, 1, 2, 2], [0, 1, 2, 1]) == {"accuracy": 0.75}


def test_one_class_alone() -> None:
    assert f1([0, 0], [0, 0]) == matthews([0, 0], [0, 1]) == 0
    assert class_metrics([0], [0]) == {"accuracy": 1.0, "f1": 0.0, "matthews": 0.0}


def test_correlations() -> None:
    """Of (1, 2, 3, 4, 5) and squares: 0.98111, computed by hand as 60 / sqrt(10 x 374)."""
    x, y = [1.0, 2, 3, 4, 5], [1.0, 4, 9, 16, 25]
    assert pearson(x, y) == pytest.approx(60 / math.sqrt(10 * 374))
    assert spearman(x, y) == pytest.approx(1)
    assert pearson(x, [-v for v in y]) == pytest.approx(-60 / math.sqrt(10 * 374))
    assert score_metrics(x, y) == {"pearson": pearson(x, y), "spearman": spearman(x, y)}


def test_equal_values_share_a_rank() -> None:
    """Ranks 0.5, 0.5, 2, 3 and 0, 1, 2.5, 2.5: covariance 4, variances 4.5 and 4.5."""
    assert spearman([1, 1, 5, 9], [2, 3, 7, 7]) == pytest.approx(4 / 4.5)


def test_what_does_not_vary_has_no_correlation() -> None:
    assert pearson([2, 2, 2], [1, 2, 3]) == spearman([1, 2, 3], [7, 7, 7]) == 0
