"""A task that was saved answers as fine-tuning said that it does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny_run import tiny_config, write_corpus
from tests.training.tiny_task import FORMS, tiny_task, write_tasks
from training.errors import TrainingError
from training.evaluation.task import evaluate_task
from training.finetune import finetune
from training.pretrain import pretrain


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks, and a decoder of one layer that knows nothing."""
    path = tmp_path_factory.mktemp("tasks-evaluated")
    write_corpus(path / "corpus")
    pretrain(tiny_config(path, num_steps=1, num_threads=1, window_len=64))
    write_tasks(path / "tasks")
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(folder: Path, form: str, **changes: Any) -> tuple[Path, Any, str]:
    """Where a task lies, what fine-tuning reported, and the file it was reported of."""
    out = folder / f"run-{form}-{len(changes)}"
    trunk = folder / "run" / "checkpoint"
    config = tiny_task(folder, trunk, form, out=out, num_epochs=1, **changes)
    return out / "task", finetune(config), str(config.dev)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_metrics_that_fine_tuning_reported(folder: Path, form: str) -> None:
    task, report, dev = trained(folder, form)
    found = evaluate_task(task, folder / "nowhere", [dev])  # it has a decoder of its own
    assert found.metrics[dev] == pytest.approx(report.dev, abs=1e-9)
    assert found.num_examples == {dev: 32}
    assert found.lines()[2].split() == ["on", "examples", "measure", "measured"]
    (result,) = found.to_dict()["results"]
    assert result["metrics"] == found.metrics[dev]


def test_lora_is_answered_on_the_decoder_that_it_was_trained_on(folder: Path) -> None:
    names = {"train": "lora", "label_names": ("0=bad", "1=good")}
    task, report, dev = trained(folder, "classification", **names)
    trunk = folder / "run" / "checkpoint"
    assert evaluate_task(task, trunk, [dev]).metrics[dev] == pytest.approx(report.dev, abs=1e-9)
    with pytest.raises(TrainingError, match="nowhere does not exist"):
        evaluate_task(task, folder / "nowhere", [dev])
    bad = folder / "bad.tsv"
    bad.write_text("a cat\t2\nno label\n")
    with pytest.raises(TrainingError) as caught:
        evaluate_task(task, trunk, [str(bad), str(folder / "none.tsv")])
    assert caught.value.problems == [
        f"{bad}:2: has 1 fields, there are 2 columns",
        f"{bad}:1: label must be one of 0, 1, got '2'",
        f"{folder / 'none.tsv'}: No such file or directory",
    ]


def test_scores_lie_in_the_range_that_the_task_has(folder: Path) -> None:
    task, _, _ = trained(folder, "similarity", seed=1)
    (folder / "high.csv").write_text("a,b,score\nx,y,5\nx,y,7\n")
    with pytest.raises(TrainingError, match=r"high\.csv:3: label must be from 1 to 5, got 7"):
        evaluate_task(task, folder / "nowhere", [str(folder / "high.csv")])


def test_what_is_no_task_is_named(folder: Path) -> None:
    with pytest.raises(TrainingError, match="nothing does not exist"):
        evaluate_task(folder / "nothing", folder / "run" / "checkpoint", ["x.tsv"])
