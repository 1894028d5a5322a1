"""The memory there is, as a container sees it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from engine.memory import available_bytes


@pytest.mark.parametrize(
    ("limit_name", "usage_name"),
    [
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ],
)
def test_a_cgroup_limit_counts(tmp_path: Path, limit_name: str, usage_name: str) -> None:
    (tmp_path / limit_name).parent.mkdir(exist_ok=True)
    (tmp_path / limit_name).write_text("5000000\n")
    (tmp_path / usage_name).write_text("1000000\n")
    assert available_bytes(tmp_path) == 4_000_000


def test_no_limit_leaves_what_the_machine_has(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert available_bytes(tmp_path) > psutil.virtual_memory().total * 0.01


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000")
    (tmp_path / "memory.current").write_text("2000")
    assert available_bytes(tmp_path) == 0
