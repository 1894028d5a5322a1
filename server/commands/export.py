"""gpt2-server export: a checkpoint as Hugging Face transformers opens it."""

from __future__ import annotations

from pathlib import Path

import click

from server.commands.progress import byte_bar
from server.commands.refusal import refuse


@click.command("export")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("dest", type=click.Path(path_type=Path))
def command(checkpoint: Path, dest: Path) -> None:
    """Write CHECKPOINT, a folder that can be served, to the new folder DEST for transformers.

    DEST is complete and read back bit for bit, or it is not there.
    """
    from weights.checkpoint import CheckpointError
    from weights.export import export

    try:
        with byte_bar("exporting") as show:
            written = export(checkpoint, dest, show)
    except CheckpointError as error:
        refuse(error.problems)
    except OSError as error:
        refuse([f"{error.strerror or error}: {error.filename or dest}"])
    millions = written.num_parameters / 1e6
    click.echo(f"{dest}: {millions:,.1f} M parameters for transformers")
