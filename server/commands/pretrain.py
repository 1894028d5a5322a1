"""gpt2-server pretrain: text in, a checkpoint that serve takes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from server.commands.locate import locate
from server.commands.refusal import refuse

_PATH = click.Path(path_type=Path)


@click.command("pretrain")
@click.argument("data", type=_PATH)
@click.argument("out", type=_PATH)
@click.option("--from", "start_from", help="A checkpoint to train on: a folder, or a hub name.")
@click.option("--size", help="A preset (gpt2, gpt2-medium, ...) instead of the three numbers.")
@click.option("--num-layers", type=int, help="[default: 8]")
@click.option("--num-channels", type=int, help="[default: 256]")
@click.option("--num-heads", type=int, help="[default: 4]")
@click.option("--vocabulary", type=_PATH, help="A folder with a tokenizer, instead of a new BPE.")
@click.option("--vocab-size", type=int, help="Entries of a new BPE.  [default: 8192]")
@click.option("--held-out", multiple=True, help="A document to score and not to train on.")
@click.option("--join-lines", is_flag=True, default=None, help="Join the lines of a paragraph.")
@click.option("--window-len", type=int, help="Positions.  [default: 1024]")
@click.option("--short-window-len", type=int, help="Reach of attention in the first steps.")
@click.option("--short-share", type=float, help="Share of those steps.  [default: 0.75]")
@click.option("--batch-tokens", type=int, help="Tokens a step.  [default: 4096]")
@click.option("--accumulation", type=int, help="Parts that a batch is cut into.  [default: 1]")
@click.option("--num-steps", type=int, help="Length of the run: give one of these three.")
@click.option("--num-epochs", type=float, help="Length of the run, in passes over the data.")
@click.option("--max-minutes", type=float, help="Length of the run, at the speed measured first.")
@click.option("--optimizer", help="[default: adamw]")
@click.option("--learning-rate", type=float, help="[default: 0.001]")
@click.option("--warmup-steps", type=int, help="[default: 60]")
@click.option("--weight-decay", type=float, help="[default: 0.1]")
@click.option("--grad-clip", type=float, help="[default: 1.0]")
@click.option("--dropout", type=float, help="[default: 0.0]")
@click.option("--seed", type=int, help="[default: 0]")
@click.option("--dtype", help="bfloat16 or float32.  [default: bfloat16]")
@click.option("--device", help="cpu or cuda.  [default: cpu]")
@click.option("--num-threads", type=int, help="CPU threads.  [default: torch's choice]")
@click.option("--checkpoint-s", type=float, help="Seconds between saves.  [default: 120]")
@click.option("--checkpoint-steps", type=int, help="Steps between saves, instead of seconds.")
@click.option("--held-out-steps", type=int, help="Steps between scores.  [default: 250]")
@click.option("--resume/--no-resume", default=None, help="Go on with the run in OUT.")
def command(**options: Any) -> None:
    """Train a decoder on DATA (text files, or a tar of them), into the folder OUT.

    The same command goes on where an interrupted one stopped.
    """
    try:
        from training.pretrain import PretrainConfig, TrainingError, pretrain
    except ModuleNotFoundError as error:
        extra = "which the extra training brings: pip install 'gpt2-server[training]'"
        refuse([f"pretrain needs {error.name}, {extra}"])

    if options["start_from"] is not None:
        options["start_from"] = locate(options["start_from"]).path
    try:
        report = pretrain(PretrainConfig(**given(options)))
    except TrainingError as error:
        refuse(error.problems)
    except OSError as error:
        refuse([f"{error.strerror or error}: {error.filename or options['out']}"])
    for line in report.lines():
        click.echo(line)


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Only what was asked for: the defaults are those of PretrainConfig."""
    return {name: value for name, value in options.items() if value not in (None, ())}
