"""The loss curve's files."""

from __future__ import annotations

import csv
from pathlib import Path

from training.curve import Curve, Point

POINTS = [
    Point(1, 128, 5.5, 0.1, 0.25),
    Point(2, 256, 5.125, 0.2, 0.5, 3.25),
    Point(3, 384, 4.75, 0.1, 0.75),
]


def test_points_survive_and_a_resumed_run_drops_what_it_will_redo(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "curve.csv", 0)
    curve.points += POINTS
    curve.save()
    assert Curve(tmp_path / "curve.csv", 3).points == POINTS
    assert Curve(tmp_path / "curve.csv", 2).points == POINTS[:2]
    with (tmp_path / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["loss"] for row in rows] == ["5.5", "5.125", "4.75"]
    assert [row["held_out_bits_per_byte"] for row in rows] == ["", "3.25", ""]


def test_png_is_a_picture(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "curve.csv", 0)
    curve.points += POINTS
    curve.draw()
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.png"]
