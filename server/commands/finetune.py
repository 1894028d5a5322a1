"""gpt2-server finetune: labelled texts in, a task that serve takes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from server.commands.locate import locate
from server.commands.refusal import refuse

_PATH = click.Path(path_type=Path)


@click.command("finetune")
@click.option("--task", "form", required=True, help="classification, entailment, similarity, ...")
@click.option("--data", type=_PATH, required=True, help="Training examples: .tsv, .csv or .jsonl.")
@click.option("--from", "start_from", required=True, help="A checkpoint: a folder, or a hub name.")
@click.option("--out", type=_PATH, required=True, help="The folder of the run.")
@click.option("--dev", type=_PATH, help="Examples that the best epoch is chosen by.")
@click.option("--dev-share", type=float, help="Share of the training examples, instead of --dev.")
@click.option("--num-examples", type=int, help="Train on this many at most, drawn by the seed.")
@click.option("--test", type=_PATH, help="Examples that are read once, at the end.")
@click.option("--text", multiple=True, help="Column of a text part, or A+B; one for each part.")
@click.option("--label", help="Column of the label.  [default: label]")
@click.option("--columns", help="Names of all columns, A,B,..., where no header line has them.")
@click.option("--label-name", "label_names", multiple=True, help="What to call a label: 0=bad.")
@click.option("--score-range", type=float, nargs=2, help="Labels are numbers from LOW to HIGH.")
@click.option("--join", help="sum or concatenate, of similarity.  [default: sum]")
@click.option("--name", help="Of the task.  [default: the name of the folder]")
@click.option("--max-len", type=int, help="Positions of a sequence.  [default: the decoder's]")
@click.option("--train", help="full, lora or head.  [default: full]")
@click.option("--lora-rank", type=int, help="[default: 8]")
@click.option("--lora-alpha", type=float, help="[default: 16]")
@click.option(
    "--lora-target", "lora_targets", multiple=True, help="[default: wte and all matrices]"
)
@click.option("--transfer-layers", type=int, help="Lowest layers that start from the checkpoint.")
@click.option("--lm-coef", type=float, help="Lambda of L3 = L2 + lambda L1.  [default: 0.5]")
@click.option("--learning-rate", type=float, help="[default: 0.0000625]")
@click.option("--batch-size", type=int, help="[default: 32]")
@click.option("--num-epochs", type=int, help="[default: 3]")
@click.option("--warmup-share", type=float, help="Of the steps.  [default: 0.002]")
@click.option("--weight-decay", type=float, help="[default: 0.01]")
@click.option("--grad-clip", type=float, help="[default: 1.0]")
@click.option("--dropout", type=float, help="[default: 0.1]")
@click.option("--word-dropout", type=float, help="Share of tokens not seen.  [default: 0.0]")
@click.option("--metric", help="accuracy, f1, matthews, pearson or spearman: chooses the epoch.")
@click.option("--seed", type=int, help="[default: 0]")
@click.option("--dtype", help="bfloat16 or float32.  [default: bfloat16]")
@click.option("--device", help="cpu or cuda.  [default: cpu]")
@click.option("--num-threads", type=int, help="CPU threads.  [default: torch's choice]")
@click.option("--checkpoint-s", type=float, help="Seconds between saves.  [default: 120]")
@click.option("--checkpoint-steps", type=int, help="Steps between saves, instead of seconds.")
@click.option("--baseline", is_flag=True, default=None, help="Print a bag of words beside it.")
@click.option("--resume/--no-resume", default=None, help="Go on with the run in OUT.")
def command(**options: Any) -> None:
    """Teach a decoder a task, from labelled texts.

    The same command goes on where an interrupted one stopped. The result is OUT/task.
    """
    try:
        from training.finetune import FinetuneConfig, TrainingError, finetune
    except ModuleNotFoundError as error:
        extra = "which the extra training brings: pip install 'gpt2-server[training]'"
        refuse([f"finetune needs {error.name}, {extra}"])

    options["start_from"] = locate(options["start_from"]).path
    if options["columns"] is not None:
        options["columns"] = tuple(options["columns"].split(","))
    given = {name: value for name, value in options.items() if value not in (None, ())}
    try:
        report = finetune(FinetuneConfig(**given))
    except TrainingError as error:
        refuse(error.problems)
    except OSError as error:
        refuse([f"{error.strerror or error}: {error.filename or options['out']}"])
    for line in report.lines():
        click.echo(line)
