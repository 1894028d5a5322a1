"""gpt2-server convert: a checkpoint of another layout into our own."""

from __future__ import annotations

from pathlib import Path

import click

from server.commands.refusal import refuse


@click.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("dest", type=click.Path(path_type=Path))
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="[default: as stored]"
)
def command(source: Path, dest: Path, dtype: str | None) -> None:
    """Write the checkpoint in SOURCE to the new folder DEST.

    DEST is complete and read back bit for bit, or it is not there.
    """
    from tqdm import tqdm

    from weights.checkpoint import CheckpointError
    from weights.convert import convert

    try:
        with tqdm(desc="converting", unit="B", unit_scale=True, leave=False, delay=0.5) as bar:

            def show(done_bytes: int, total_bytes: int) -> None:
                bar.total = total_bytes
                bar.update(done_bytes - bar.n)

            checkpoint = convert(source, dest, dtype, show)
    except CheckpointError as error:
        refuse(error.problems)
    except OSError as error:
        refuse([f"{error.strerror or error}: {error.filename or dest}"])
    millions = checkpoint.num_parameters / 1e6
    click.echo(f"{dest}: {millions:,.1f} M parameters, weights {checkpoint.weights_hash}")
