"""Timing: what one run of one system took, and the figures that are made of several."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """One run.

    ``prefill_s`` ends when every row has its first token. Each of ``step_s`` brings one more
    token to every row. ``token_ids`` are the rows' new tokens, the first included.
    """

    prefill_s: float
    step_s: tuple[float, ...]
    token_ids: tuple[tuple[int, ...], ...]

    @property
    def num_rows(self) -> int:
        """Sequences at once."""
        return len(self.token_ids)

    @property
    def decode_rate(self) -> float:
        """Tokens a second after the first token of all."""
        return self.num_rows * len(self.step_s) / sum(self.step_s)

    @property
    def whole_rate(self) -> float:
        """Tokens a second over prefill and decoding together."""
        total_s = self.prefill_s + sum(self.step_s)
        return self.num_rows * (1 + len(self.step_s)) / total_s


class Stopwatch:
    """Collects the time of each step; the first is the prefill."""

    def __init__(self) -> None:
        self._times_s = [time.perf_counter()]

    def lap(self, step: int | None = None) -> None:
        """A step has ended: the next, or the one with this index, whose last lap counts."""
        now_s = time.perf_counter()
        if step is not None and step + 1 < len(self._times_s):
            self._times_s[step + 1] = now_s
        else:
            self._times_s.append(now_s)

    def timing(self, token_ids: Sequence[Sequence[int]]) -> Timing:
        """What was timed."""
        laps = [
            after - before for before, after in zip(self._times_s, self._times_s[1:], strict=False)
        ]
        return Timing(laps[0], tuple(laps[1:]), tuple(tuple(row) for row in token_ids))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that ``percent`` of the values do not exceed; NaN of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    rank = math.ceil(percent / 100 * len(ordered))
    return ordered[max(rank - 1, 0)]


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of ours / theirs, round by round: both saw the same weather."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def agreement(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> float:
    """The share of tokens before each row's first difference."""
    same = total = 0
    for row, other in zip(ours, theirs, strict=True):
        differing = (i for i, (a, b) in enumerate(zip(row, other, strict=False)) if a != b)
        total += min(len(row), len(other))
        same += next(differing, min(len(row), len(other)))
    return same / total if total else math.nan
