"""How many threads are worth having: physical cores, of those this process may use."""

from __future__ import annotations

import math
from pathlib import Path

import psutil


def num_usable_cores(cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """At least 1. Products gain nothing from a core's second thread.

    Bounded by the process's affinity and by its cgroup's quota, which a container's
    limit of one and a half processors sets.
    """
    process = psutil.Process()
    allowed = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else math.inf
    physical = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return max(1, int(min(physical, allowed, _quota(cgroup_root))))


def _quota(root: Path) -> float:
    """Processors' worth of time that the cgroup (v2, then v1) grants; infinite without a limit."""
    try:
        limit, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return math.inf
    return int(limit) / int(period) if limit.isdigit() else math.inf
