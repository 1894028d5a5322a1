"""gpt2-server finetune: what it passes on, and how it refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from server.cli import main
from training.finetune import FinetuneConfig

NEEDED = ("--task", "classification", "--data", "d.tsv", "--out", "runs/mood", "--from", ".")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["finetune", *NEEDED, *arguments])


def told(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> FinetuneConfig:
    """The configuration that the command makes of its options."""
    seen: list[FinetuneConfig] = []

    def finetune(config: FinetuneConfig) -> Any:
        seen.append(config)
        raise OSError(28, "No space left on device", "runs/mood/state.pt")

    monkeypatch.setattr("training.finetune.finetune", finetune)
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.output == "Error: No space left on device: runs/mood/state.pt\n"
    return seen[0]


def test_options_become_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = "--dev v.tsv --columns text,label --label-name 0=bad --label-name 1=good"
    more = "--train lora --lora-target attn.c_attn --lm-coef 0 --no-resume --baseline"
    config = told(monkeypatch, *arguments.split(), *more.split())
    wanted = FinetuneConfig(
        form="classification",
        data=Path("d.tsv"),
        out=Path("runs/mood"),
        start_from=Path(),
        dev=Path("v.tsv"),
        columns=("text", "label"),
        label_names=("0=bad", "1=good"),
        train="lora",
        lora_targets=("attn.c_attn",),
        lm_coef=0.0,
        baseline=True,
        resume=False,
    )
    assert config == wanted


def test_what_is_not_asked_for_is_the_configurations_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = told(monkeypatch, "--dev-share", "0.1", "--score-range", "0", "5")
    assert config.score_range == (0.0, 5.0)
    assert (config.learning_rate, config.resume, config.baseline) == (6.25e-5, True, False)


def test_every_problem_is_a_line() -> None:
    result = invoke("--batch-size", "0", "--train", "some")
    assert result.exit_code == 2
    assert result.output.splitlines() == [
        "Error: batch_size must be a whole number of at least 1, got 0",
        "Error: train must be one of full, lora, head, got 'some'",
    ]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "training.finetune", None)
    result = invoke()
    assert result.exit_code == 2
    assert "pip install 'gpt2-server[training]'" in result.output
