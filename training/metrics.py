"""The metrics of GLUE (Wang et al. 2018, section 3): accuracy, F1, Matthews, Pearson, Spearman."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

CLASS_METRICS = ("accuracy", "f1", "matthews")
SCORE_METRICS = ("pearson", "spearman")
METRICS = (*CLASS_METRICS, *SCORE_METRICS)


def class_metrics(found: Sequence[int], wanted: Sequence[int]) -> Mapping[str, float]:
    """Of classes, counted from 0, at least one example. F1 and Matthews only of two classes."""
    accuracy = sum(f == w for f, w in zip(found, wanted, strict=True)) / len(wanted)
    if max(*found, *wanted, 0) > 1:
        return {"accuracy": accuracy}
    return {"accuracy": accuracy, "f1": f1(found, wanted), "matthews": matthews(found, wanted)}


def score_metrics(found: Sequence[float], wanted: Sequence[float]) -> Mapping[str, float]:
    """Of numbers."""
    return {"pearson": pearson(found, wanted), "spearman": spearman(found, wanted)}


def f1(found: Sequence[int], wanted: Sequence[int]) -> float:
    """Harmonic mean of precision and recall of class 1; 0 where there is neither."""
    hits, others = _hits(found, wanted), sum(found) + sum(wanted)
    return 2 * hits / others if others else 0.0


def matthews(found: Sequence[int], wanted: Sequence[int]) -> float:
    """The correlation of two classes (Matthews 1975); 0 where one side has only one class."""
    return pearson(found, wanted)


def pearson(found: Sequence[float], wanted: Sequence[float]) -> float:
    """The linear correlation; 0 where one side does not vary."""
    a, b = _centred(found), _centred(wanted)
    spread = math.sqrt(_dot(a, a)) * math.sqrt(_dot(b, b))
    return _dot(a, b) / spread if spread else 0.0


def spearman(found: Sequence[float], wanted: Sequence[float]) -> float:
    """The correlation of ranks; equal values share the mean of theirs."""
    return pearson(_ranks(found), _ranks(wanted))


def _hits(found: Sequence[int], wanted: Sequence[int]) -> int:
    return sum(f == w == 1 for f, w in zip(found, wanted, strict=True))


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def _centred(values: Sequence[float]) -> list[float]:
    mean = math.fsum(values) / len(values)
    return [value - mean for value in values]


def _ranks(values: Sequence[float]) -> list[float]:
    ranks = [0.0] * len(values)
    order = sorted(range(len(values)), key=values.__getitem__)
    start = 0
    for _, group in groupby(order, key=values.__getitem__):
        places = [*group]
        for place in places:
            ranks[place] = start + (len(places) - 1) / 2
        start += len(places)
    return ranks
