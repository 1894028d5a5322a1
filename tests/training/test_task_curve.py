"""The files of fine-tuning's curves."""

from __future__ import annotations

import csv
from pathlib import Path

from training.task_curve import TaskCurve, TaskPoint

POINTS = [
    TaskPoint(1, 0.5, 0.75, 5.5, 0.1, 0.25),
    TaskPoint(2, 1.0, 0.5, 5.25, 0.2, 0.5, 0.625),
    TaskPoint(3, 1.5, 0.25, None, 0.1, 0.75),
]


def test_points_survive_and_a_resumed_run_drops_what_it_will_redo(tmp_path: Path) -> None:
    curve = TaskCurve(tmp_path / "curve.csv", 0, "accuracy")
    curve.points += POINTS
    curve.save()
    assert TaskCurve(tmp_path / "curve.csv", 3, "accuracy").points == POINTS
    assert TaskCurve(tmp_path / "curve.csv", 2, "accuracy").points == POINTS[:2]
    with (tmp_path / "curve.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["dev_metric"] for row in rows] == ["", "0.625", ""]


def test_the_picture_is_drawn_with_and_without_a_language_model(tmp_path: Path) -> None:
    for points in (POINTS, [POINTS[2]]):
        curve = TaskCurve(tmp_path / "curve.csv", 0, "accuracy")
        curve.points += points
        curve.draw()
        assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.png"]
