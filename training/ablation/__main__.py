"""L2 and L3, with no, half of and all layers transferred, on four tasks.

    python -m training.ablation TASKS RESULTS --from CHECKPOINT

TASKS is the folder of the tasks, RESULTS a .jsonl file; what stands in it is not run again. The
table is printed.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import click

from training.ablation.grid import cells, read_results, run_cell, run_missing
from training.ablation.table import markdown
from weights.checkpoint import CheckpointError, open_plain_checkpoint

_PATH = click.Path(path_type=Path)


@click.command(help=__doc__)
@click.argument("tasks", type=_PATH)
@click.argument("results", type=_PATH)
@click.option("--from", "start_from", type=_PATH, required=True, help="The decoder's folder.")
@click.option("--num-seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--num-workers", type=click.IntRange(1), default=2, show_default=True)
def main(tasks: Path, results: Path, start_from: Path, num_seeds: int, num_workers: int) -> None:
    """See the module."""
    try:
        trunk = open_plain_checkpoint(start_from)
    except CheckpointError as error:
        raise click.ClickException("; ".join(error.problems)) from error
    digest = trunk.weights_hash
    wanted = [*cells(trunk.config.num_layers, range(num_seeds))]
    run = partial(run_cell, data=tasks, start_from=start_from, weights_hash=digest)
    context = get_context("spawn")  # a fork would copy torch's threads in any state
    with ProcessPoolExecutor(num_workers, context) as workers:
        run_missing(wanted, results, run, digest, workers)
    found = [result for result in read_results(results, digest) if result.cell in set(wanted)]
    for line in markdown(found):
        click.echo(line)


if __name__ == "__main__":
    main()
