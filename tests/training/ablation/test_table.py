"""The table: mean and spread over the seeds, beside the baseline and the paper."""

from __future__ import annotations

from training.ablation.grid import Cell, Result
from training.ablation.table import markdown


def result(task: str, objective: str, layers: int, seed: int, measured: float) -> Result:
    return Result(Cell(task, objective, layers, seed), "hash", measured, 0.5 + seed / 100, 1.0)


def test_mean_lowest_and_highest() -> None:
    results = [
        result("SST-2", "L2", 0, 0, 0.60),
        result("SST-2", "L2", 0, 1, 0.70),
        result("SST-2", "L3", 8, 0, 0.80),
        result("COPA", "L3", 8, 0, 0.55),
    ]
    assert markdown(results) == [
        "| task | measure | bag of words | L2, 0 layers | L2, 8 layers | L3, 0 layers "
        "| L3, 8 layers | GPT, 117 M |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| SST-2 | accuracy | 50.5 (50.0 to 51.0) | 65.0 (60.0 to 70.0) | - | - "
        "| 80.0 (80.0 to 80.0) | 91.3 |",
        "| RTE | accuracy | - | - | - | - | - | 56.0 |",
        "| STS-B | pearson | - | - | - | - | - | 82.0 |",
        "| COPA | accuracy | 50.0 (50.0 to 50.0) | - | - | - | 55.0 (55.0 to 55.0) | - |",
    ]
