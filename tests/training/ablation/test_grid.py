"""The grid has every cell once, runs what is missing, and keeps what it ran."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from training.ablation.grid import Cell, Result, cells, configuration, read_results, run_missing
from training.ablation.tasks import TASKS
from training.task_data import read_examples

GRID = [*cells(num_layers=8, seeds=range(3))]


def ran(cell: Cell, weights_hash: str) -> Result:
    return Result(cell, weights_hash, 0.123456789, 0.5, 1.0)


def run_first(path: Path, run: Callable[[Cell], Result], weights_hash: str) -> None:
    with ThreadPoolExecutor(1) as workers:
        run_missing(GRID[:1], path, run, weights_hash, workers)


def forbidden(cell: Cell) -> Result:
    raise AssertionError(cell)


def test_every_cell_is_there_once_and_each_seed_is_a_whole_table() -> None:
    assert len(GRID) == len(set(GRID)) == 4 * 2 * 3 * 3
    assert {cell.transfer_layers for cell in GRID} == {0, 4, 8}
    assert {cell.seed for cell in GRID[:24]} == {0}


def test_what_was_run_is_kept_and_not_run_again(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    run_first(path, partial(ran, weights_hash="a"), "a")
    assert read_results(path, "a") == [Result(GRID[0], "a", 0.12346, 0.5, 1.0)]
    run_first(path, forbidden, "a")
    assert len(path.read_text().splitlines()) == 1


def test_another_decoder_makes_other_results(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    run_first(path, partial(ran, weights_hash="a"), "a")
    assert read_results(path, "b") == []
    with pytest.raises(AssertionError):
        run_first(path, forbidden, "b")
    assert json.loads(path.read_text())["weights_hash"] == "a"


@pytest.mark.parametrize("cell", GRID[:24:6], ids=lambda cell: cell.task)
def test_its_files_are_read_and_are_not_its_test(cell: Cell, shared_data: Path) -> None:
    config = configuration(cell, shared_data / "tasks", Path("decoder"), Path("out"))
    problems: list[str] = []
    for path in (config.data, config.test):
        assert path is not None
        assert read_examples(path, config.layout, problems).rows
    assert problems == []
    assert config.data != config.test
    assert config.dev_share == 0.1
    assert config.chosen_metric == TASKS[cell.task].metric
