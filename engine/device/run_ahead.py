"""RunAhead: how many decode steps to keep queued on the device. Imports no torch."""

from __future__ import annotations

import math

MIN_AHEAD, MAX_AHEAD = 2, 8
"""One step runs while the next is queued; more than eight only delay what arrives."""

_WEIGHT = 0.2  # of the newest observation in the running averages


class RunAhead:
    """Learns what the host needs for a pass of its loop and the device for a step.

    The queue never runs dry where it holds the steps that fit into one pass of the host, and one
    more. While requests wait it is short: they join behind it.
    """

    def __init__(self, fixed: int | None = None) -> None:
        self._fixed = fixed
        self._host_s: float | None = None
        self._step_s: float | None = None

    def observe_host(self, host_s: float) -> None:
        """Take note of a pass: what the host did while it did not wait for the device."""
        self._host_s = _blend(self._host_s, host_s)

    def observe_step(self, step_s: float) -> None:
        """Take note of a decode step on the device."""
        self._step_s = _blend(self._step_s, step_s)

    def depth(self, has_waiting: bool) -> int:
        """Decode steps to keep queued."""
        if self._fixed is not None:
            return self._fixed
        if has_waiting or not self._host_s or not self._step_s:
            return MIN_AHEAD
        wanted = math.ceil(self._host_s / self._step_s) + 1
        return min(max(wanted, MIN_AHEAD), MAX_AHEAD)


def _blend(average: float | None, value: float) -> float:
    return value if average is None else average + _WEIGHT * (value - average)
