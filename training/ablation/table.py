"""The results of the grid as one markdown table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from training.ablation.grid import Result
from training.ablation.tasks import OBJECTIVES, TASKS

_NOTHING = "-"


def markdown(results: Sequence[Result]) -> list[str]:
    """Mean (lowest to highest) over the seeds, in hundredths, beside the baseline and the paper."""
    layers = sorted({result.cell.transfer_layers for result in results})
    columns = [(objective, number) for objective in OBJECTIVES for number in layers]
    heads = ["task", "measure", "bag of words"]
    heads += [f"{objective}, {number} layers" for objective, number in columns]
    rows = [[*heads, "GPT, 117 M"], ["---"] * (len(heads) + 1)]
    rows += [_row(name, columns, results) for name in TASKS]
    return [f"| {' | '.join(row)} |" for row in rows]


def _row(name: str, columns: Sequence[tuple[str, int]], results: Sequence[Result]) -> list[str]:
    own = [result for result in results if result.cell.task == name]
    # The bag of words depends on the seed, which draws its examples, and on nothing else.
    baseline = {result.cell.seed: result.bag_of_words for result in own}
    measured = [
        _spread(r.measured for r in own if (r.cell.objective, r.cell.transfer_layers) == column)
        for column in columns
    ]
    task = TASKS[name]
    published = _NOTHING if task.published is None else f"{task.published:.1f}"
    return [name, task.metric, _spread(baseline.values()), *measured, published]


def _spread(values: Iterable[float]) -> str:
    found = [100 * value for value in values]
    if not found:
        return _NOTHING
    mean = sum(found) / len(found)
    return f"{mean:.1f} ({min(found):.1f} to {max(found):.1f})"
