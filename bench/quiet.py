"""What other programs took of the processors: a round that they disturb is no measurement.

A library whose threads spin for each other loses far more to a neighbour than one whose threads
sleep, so a busy machine does not merely blur a comparison, it bends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil


class ForeignMeter:
    """Cores that were busy with neither this process nor those whose time ``own_s`` counts."""

    def __init__(self, own_s: Callable[[], float]) -> None:
        self._own_s = own_s
        self._before = self._now()

    def start(self) -> None:
        """Count from here on."""
        self._before = self._now()

    def cores(self) -> float:
        """Mean since ``start``; what a hypervisor took is counted too."""
        elapsed_s, busy_s = (a - b for a, b in zip(self._now(), self._before, strict=True))
        return max(busy_s / elapsed_s, 0.0)

    def _now(self) -> tuple[float, float]:
        times = psutil.cpu_times()
        waiting_s = times.idle + getattr(times, "iowait", 0.0)
        # What guests take is part of what their hosts do.
        guests_s = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        busy_s = sum(times) - waiting_s - guests_s
        return time.perf_counter(), busy_s - self._own_s() - time.process_time()
