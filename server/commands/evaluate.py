"""gpt2-server evaluate: perplexity, LAMBADA, multiple choice, on what is served."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from server.commands.locate import locate
from server.commands.refusal import refuse

if TYPE_CHECKING:
    from engine.local import LocalEngine
    from engine.request import TokenLogprob

_ENGINE_OPTIONS = ("device", "dtype", "kernels", "num_threads")
_OPTION = {"documents": "document", "window_len": "window", "num_threads": "threads"}
"""What a parameter is called on the command line, where that is another name."""


class Report(Protocol):
    """What is printed."""

    def lines(self) -> list[str]:
        """For people."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        ...


@click.command("evaluate")
@click.argument("checkpoint", required=False)
@click.option(
    "--on",
    multiple=True,
    required=True,
    help="wikitext2, wikitext103, ptb, lambada, cbt-cn, cbt-ne, NAME=FILE, or a text; repeatable.",
)
@click.option("--data", type=click.Path(path_type=Path), help="The folder of what has a name.")
@click.option("--document", "documents", multiple=True, help="Of an archive or folder; repeatable.")
@click.option(
    "--task", type=click.Path(path_type=Path), help="A fine-tuned task; --on are its examples."
)
@click.option("--protocol", help="plain, paper or both.  [default: both]")
@click.option("--window", "window_len", type=int, help="Predictions.  [default: the context]")
@click.option("--stride", type=int, help="Between plain windows.  [default: half a window]")
@click.option("--limit", type=int, help="The most windows of a text, or examples.")
@click.option("--device", help="auto, cpu or cuda.  [default: auto]")
@click.option(
    "--dtype", help="float32, bfloat16, int8, int4 or auto.  [default: float32, or as quantised]"
)
@click.option("--kernels", help="Kernel path: auto, torch, or a native one.  [default: auto]")
@click.option("--threads", "num_threads", type=int, help="CPU threads.  [default: the cores]")
@click.option("--revision", help="Branch, tag or commit of a name on the hub.  [default: main]")
@click.option("--json", "is_json", is_flag=True, help="One JSON object instead of the table.")
def command(
    checkpoint: str | None,
    revision: str | None,
    task: Path | None,
    is_json: bool,
    **options: Any,
) -> None:
    """Measure CHECKPOINT, or the one that is bundled, beside the GPT-2 paper's figures.

    CHECKPOINT is a folder or a name on the hub. It runs as it is served: the same kernels.
    With --task it is the decoder of a fine-tuned task, which is measured by its own metrics.
    """
    chosen = {name: value for name, value in options.items() if value not in (None, ())}
    if task is None:
        report = measured(checkpoint, revision, chosen)
    else:
        report = task_measured(task, checkpoint, revision, chosen)
    click.echo(json.dumps(report.to_dict()) if is_json else "\n".join(report.lines()))


def task_measured(
    task: Path, checkpoint: str | None, revision: str | None, chosen: dict[str, Any]
) -> Report:
    """The metrics of a fine-tuned task, in torch and float32."""
    from model.tokenizer import TokenizerError
    from server.settings import bundled_checkpoint
    from training.errors import TrainingError
    from training.evaluation.task import evaluate_task

    files = chosen.pop("on")
    if chosen:
        names = ", ".join(f"--{_OPTION.get(name, name)}" for name in chosen)
        refuse([f"beside --task only --on, --revision and --json are taken, got {names}"])
    path = bundled_checkpoint() if checkpoint is None else locate(checkpoint, revision).path
    try:
        return evaluate_task(task, path, files)
    except (TrainingError, TokenizerError) as error:
        refuse(error.problems)


def measured(checkpoint: str | None, revision: str | None, chosen: dict[str, Any]) -> Report:
    """Perplexity and the like, by the engine."""
    from engine.errors import EngineFailed
    from engine.local import LocalEngine
    from engine.messages import EngineConfig
    from model.tokenizer import Tokenizer, TokenizerError
    from server.settings import bundled_checkpoint
    from training.evaluation.evaluate import (
        Evaluated,
        EvaluationConfig,
        TrainingError,
        evaluate,
        read_subjects,
    )

    of_engine = {name: chosen.pop(name) for name in _ENGINE_OPTIONS if name in chosen}
    config = EvaluationConfig(**chosen)
    try:
        subjects = read_subjects(config)  # before a download, and before weights are read
        path = bundled_checkpoint() if checkpoint is None else locate(checkpoint, revision).path
        of_engine.setdefault("dtype", default_dtype(path))
        engine = LocalEngine(EngineConfig(checkpoint=str(path), **of_engine))
        tokenizer = Tokenizer.from_directory(path)
        info = engine.info
        evaluated = Evaluated(
            checkpoint=str(checkpoint or path.name),
            weights_hash=info.weights_hash,
            num_parameters=info.num_parameters,
            num_layers=info.num_layers,
            num_channels=info.num_channels,
            device=info.device,
            dtype=info.dtype,
            kernels=info.kernels,
        )
        start_id = next(iter(info.eos_token_ids), None)
        scorer = EngineScorer(engine)
        return evaluate(config, subjects, scorer, tokenizer, start_id, evaluated)
    except (TrainingError, EngineFailed, TokenizerError) as error:
        refuse(error.problems)


def default_dtype(path: Path) -> str:
    """float32, so that figures compare; a checkpoint that was quantised runs as it is stored."""
    try:
        is_quantised = "quantization" in json.loads((path / "config.json").read_bytes())
    except (OSError, ValueError):
        is_quantised = False  # the engine says what is wrong
    return "auto" if is_quantised else "float32"


class _Scored(Protocol):
    """What of a training.evaluation.likelihood.Item is needed here."""

    @property
    def ids(self) -> tuple[int, ...]: ...

    @property
    def scored_from(self) -> int: ...


class EngineScorer:
    """A training.evaluation.likelihood.Scorer: prompts that are scored, and nothing is drawn."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine

    @property
    def context_len(self) -> int:
        """See Scorer."""
        return self._engine.info.context_len

    def score(self, items: Sequence[_Scored], num_top: int) -> list[Sequence[TokenLogprob]]:
        """See Scorer."""
        from engine.request import SamplingParams

        requests = [
            (
                item.ids,
                SamplingParams(
                    max_tokens=0, num_prompt_logprobs=num_top, scored_from=item.scored_from
                ),
            )
            for item in items
        ]
        return [found.prompt_logprobs for found in self._engine.generate(requests)]
