"""The cores there are, as a container sees them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from engine.cpus import num_usable_cores


def test_without_a_limit_every_physical_core_counts(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("max 100000\n")
    most = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    assert 1 <= num_usable_cores(tmp_path) <= most
    assert num_usable_cores(tmp_path / "no cgroups here") == num_usable_cores(tmp_path)


@pytest.mark.parametrize("quota", [100_000, 150_000, 10_000])
def test_a_quota_counts(tmp_path: Path, quota: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
    assert num_usable_cores(tmp_path) == 1


def test_the_older_files_count_too(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("100000\n")
    assert num_usable_cores(tmp_path) == 1
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    assert num_usable_cores(tmp_path) == num_usable_cores(tmp_path / "nothing")


def test_affinity_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda _self: [0])
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 8 if logical else 4)
    assert num_usable_cores(tmp_path) == 1
