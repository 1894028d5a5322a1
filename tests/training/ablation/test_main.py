"""The command prints the table of what was run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from click.testing import CliRunner

from training.ablation.__main__ import main
from training.ablation.grid import Result, cells
from weights.checkpoint import open_checkpoint

BUNDLED = Path(__file__).resolve().parents[3] / "weights" / "bundled"


def test_a_grid_that_is_complete_is_only_printed(tmp_path: Path) -> None:
    """No file of a task is there: a run would fail."""
    checkpoint = open_checkpoint(BUNDLED)
    grid = cells(checkpoint.config.num_layers, range(3))
    results = [Result(cell, checkpoint.weights_hash, 0.7, 0.6, 1.0) for cell in grid]
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(asdict(result)) + "\n" for result in results))
    command = [str(tmp_path / "none"), str(path), "--from", str(BUNDLED), "--num-seeds", "1"]
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 0, found.output
    assert found.output.splitlines()[2].startswith("| SST-2 | accuracy | 60.0 (60.0 to 60.0) | 70")


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "none")
    found = CliRunner().invoke(main, [nowhere, nowhere, "--from", nowhere])
    assert found.exit_code == 1
    assert f"{nowhere} does not exist" in found.output
