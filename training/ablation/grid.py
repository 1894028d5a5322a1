"""The cells of the grid, and how one is run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from training.ablation.tasks import COMMON, OBJECTIVES, TASKS
from training.finetune import finetune
from training.finetune_config import FinetuneConfig


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: ``task`` of TASKS, ``objective`` of OBJECTIVES."""

    task: str
    objective: str
    transfer_layers: int
    seed: int


@dataclass(frozen=True, slots=True)
class Result:
    """What a cell reached on the test examples; the bag of words saw the same training examples."""

    cell: Cell
    weights_hash: str
    """Of the decoder that it started from."""
    measured: float
    bag_of_words: float
    elapsed_s: float


def cells(num_layers: int, seeds: Iterable[int]) -> Iterator[Cell]:
    """No layer, half of them and all transferred; seed by seed, so that a part is a table too."""
    for seed in seeds:
        for task in TASKS:
            for objective in OBJECTIVES:
                for transfer_layers in (0, num_layers // 2, num_layers):
                    yield Cell(task, objective, transfer_layers, seed)


def configuration(cell: Cell, data: Path, start_from: Path, out: Path) -> FinetuneConfig:
    """The run of ``cell`` on the tasks in ``data``."""
    task = TASKS[cell.task]
    values = {**COMMON, **task.options}
    return FinetuneConfig(
        data=data / task.data,
        test=data / task.test,
        out=out,
        start_from=start_from,
        lm_coef=OBJECTIVES[cell.objective],
        transfer_layers=cell.transfer_layers,
        seed=cell.seed,
        baseline=True,
        **values,
    )


def run_cell(cell: Cell, data: Path, start_from: Path, weights_hash: str) -> Result:
    """Train and test ``cell``. The weights, 17 MB and more for each cell, are not kept."""
    with tempfile.TemporaryDirectory() as folder:
        report = finetune(configuration(cell, data, start_from, Path(folder) / "run"))
    metric = TASKS[cell.task].metric
    found = {**(report.test or {})}
    baseline = report.baseline["test"][metric]
    return Result(cell, weights_hash, found[metric], baseline, report.elapsed_s)


def read_results(path: Path, weights_hash: str) -> list[Result]:
    """Those of runs that started from the decoder with ``weights_hash``."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    results = [Result(**{**row, "cell": Cell(**row["cell"])}) for row in rows]
    return [result for result in results if result.weights_hash == weights_hash]


def run_missing(
    wanted: Iterable[Cell],
    results: Path,
    run: Callable[[Cell], Result],
    weights_hash: str,
    workers: Executor,
) -> None:
    """Let ``workers`` run what ``results`` lacks; a line is added as each one ends."""
    done = {result.cell for result in read_results(results, weights_hash)}
    futures = [workers.submit(run, cell) for cell in wanted if cell not in done]
    for future in as_completed(futures):
        with results.open("a") as file:
            file.write(json.dumps(asdict(_rounded(future.result()))) + "\n")


def _rounded(result: Result) -> Result:
    return replace(
        result,
        measured=round(result.measured, 5),
        bag_of_words=round(result.bag_of_words, 5),
        elapsed_s=round(result.elapsed_s, 1),
    )
