"""gpt2-server convert: a checkpoint of another layout into our own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from server.commands.bring import say
from server.commands.locate import INTERRUPTED, hub_name
from server.commands.progress import byte_bar
from server.commands.refusal import refuse


@click.command("convert")
@click.argument("source")
@click.argument("dest", type=click.Path(path_type=Path))
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="[default: as stored]"
)
@click.option(
    "--quantize",
    type=click.Choice(["int8", "int4"]),
    help="Weights in 8 or 4 bits, as they are then served.",
)
@click.option(
    "--vocabulary",
    type=click.Path(path_type=Path),
    help="A folder with the vocabulary.  [default: SOURCE, if it is a folder]",
)
@click.option(
    "--num-heads", type=click.IntRange(1), help="Where SOURCE does not say: a bare state dict."
)
@click.option("--revision", help="Branch, tag or commit of a name on the hub.  [default: main]")
def command(
    source: str,
    dest: Path,
    dtype: str | None,
    quantize: str | None,
    vocabulary: Path | None,
    num_heads: int | None,
    revision: str | None,
) -> None:
    """Write the checkpoint in SOURCE to the new folder DEST.

    SOURCE is a folder of Hugging Face, OpenAI, minGPT or this server, or a ckpt.pt of nanoGPT;
    or a name on the hub: gpt2, OWNER/NAME, OWNER/NAME@REVISION. A classifier of Hugging Face
    becomes a task.
    Of a pickle, only tensors and plain values are read: nothing in it is executed.
    DEST is complete and read back bit for bit, or it is not there.
    """
    from weights.checkpoint import CheckpointError
    from weights.convert import convert
    from weights.formats.hf_classifier import is_hf_classifier

    try:
        path, origin = downloaded(source, revision, dest, dtype)
        if is_hf_classifier(path):
            if quantize is not None:
                refuse([f"{source} is a classifier: quantise the decoder when it is served"])
            click.echo(classifier_line(path, dest, dtype, vocabulary, origin))
            return
        with byte_bar("converting") as show:
            checkpoint = convert(path, dest, dtype, show, vocabulary, num_heads, origin, quantize)
    except CheckpointError as error:
        refuse(error.problems)
    except OSError as error:
        refuse([f"{error.strerror or error}: {error.filename or dest}"])
    millions = checkpoint.num_parameters / 1e6
    click.echo(f"{dest}: {millions:,.1f} M parameters, weights {checkpoint.weights_hash}")
    if checkpoint.quantization:
        click.echo(quality_line(checkpoint.quantization, checkpoint.source))


def classifier_line(
    path: Path, dest: Path, dtype: str | None, vocabulary: Path | None, origin: str | None
) -> str:
    """Convert a classifier to a task, and say what came out. Raises CheckpointError."""
    from weights.convert_task import convert_classifier

    task = convert_classifier(path, dest, dtype, vocabulary, origin)
    labels = ", ".join(task.description.config.labels)
    return f"{dest}: a task for `serve --task NAME={dest}`, which answers {labels:.200}"


def quality_line(quantization: str, source: Mapping[str, Any]) -> str:
    """What source.json says of the cost of quantising."""
    quality = source.get("quality")
    if not isinstance(quality, dict):
        return f"{quantization}: what it costs was not measured"
    error = quality["relative_error"]
    share = quality["log_loss_rise"] / max(quality["log_loss"], 1e-9)
    return (
        f"{quantization}: log-loss {quality['log_loss']:.3f} + {quality['log_loss_rise']:.4f} nats "
        f"a token ({share:.2%}) on {quality['num_tokens']} tokens of its own; error of a matrix "
        f"{error['median']:.2%}, at most {error['largest']:.2%} ({error['largest_of']})"
    )


def downloaded(
    source: str, revision: str | None, dest: Path, dtype: str | None
) -> tuple[Path, str | None]:
    """Where ``source`` lies, and the name and commit that it was downloaded by, if it was.

    Refuses what cannot be downloaded. Raises CheckpointError for a ``dest`` that is taken, before
    anything is.
    """
    from weights.directory import dest_problems
    from weights.hub.checks import Destination
    from weights.hub.errors import HubError
    from weights.hub.fetch import fetch
    from weights.hub.find import find
    from weights.hub.names import HubName
    from weights.hub.transfer import Hub
    from weights.stored import CheckpointError

    name = hub_name(source, revision)
    if name is None:
        return Path(source), None
    if problems := dest_problems(dest):
        raise CheckpointError(problems)
    hub = Hub.from_environment()
    try:
        found = find(hub, HubName(*name), say)
        return fetch(hub, found, Destination(dest, dtype), say), found.origin
    except HubError as error:
        refuse(error.problems)
    except KeyboardInterrupt:
        refuse([INTERRUPTED])
