"""Cores that others take are those of the machine less our own."""

from __future__ import annotations

from collections import namedtuple

import psutil
import pytest

from bench.quiet import ForeignMeter

Times = namedtuple("Times", ["user", "system", "idle", "iowait", "steal", "guest"])


def test_foreign_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """In two seconds 3.4 s are busy: 2.0 of a worker, 0.2 ours, the rest are others'."""
    now = {"wall": 10.0, "own": 1.0, "ours": 0.5, "times": Times(5.0, 1.0, 9.0, 1.0, 0.0, 3.0)}
    monkeypatch.setattr(psutil, "cpu_times", lambda: now["times"])
    monkeypatch.setattr("time.perf_counter", lambda: now["wall"])
    monkeypatch.setattr("time.process_time", lambda: now["ours"])
    meter = ForeignMeter(lambda: float(now["own"]))  # type: ignore[arg-type]
    meter.start()
    now |= {"wall": 12.0, "own": 3.0, "ours": 0.7, "times": Times(8.0, 1.2, 9.4, 1.2, 0.2, 3.0)}
    assert meter.cores() == pytest.approx((3.4 - 2.2) / 2)
