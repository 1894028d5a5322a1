"""Whole runs on small tasks: learning, interruption, refusal, and what lies there at the end."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.tokenizer import Tokenizer
from tests.training.test_pretrain import Interrupted, interrupt, values
from tests.training.tiny_run import tiny_config, write_corpus
from tests.training.tiny_task import FORMS, Fine, tiny_task, write_tasks
from training.errors import TrainingError
from training.finetune import finetune, rate_at
from training.finetune_config import FinetuneConfig
from training.finetune_learner import FinetuneLearner
from training.pretrain import pretrain
from training.run_directory import RunDirectory
from training.task_curve import TaskCurve
from weights.checkpoint import open_checkpoint
from weights.task import Task, open_task


@pytest.fixture(scope="session")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of one layer that knows nothing."""
    folder = tmp_path_factory.mktemp("trunk")
    write_corpus(folder / "corpus")
    config = tiny_config(folder, num_steps=1, num_threads=1, window_len=64)
    return pretrain(config).checkpoint


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    return write_tasks(tmp_path / "tasks")


@pytest.fixture
def configure(tasks: Path, trunk: Path) -> Fine:
    """FinetuneConfig of a tiny run of a form; keyword arguments replace its values."""
    return partial(tiny_task, tasks.parent, trunk)


def opened(config: FinetuneConfig) -> Task:
    return open_task(config.out / "task", open_checkpoint(config.start_from))


def problems(config: FinetuneConfig) -> list[str]:
    with pytest.raises(TrainingError) as caught:
        finetune(config)
    return caught.value.problems


# --- what is learned ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_learned(configure: Fine, form: str) -> None:
    config = configure(form, test=configure(form).dev, baseline=form != "similarity")
    report = finetune(config)
    metric = config.chosen_metric
    assert report.dev[metric] > 0.9
    assert report.test == report.dev  # the same file, read again
    assert all(found[metric] > 0.95 for found in report.baseline.values())
    task = opened(config)
    assert task.description.config.form == form
    assert task.description.name == "run"
    assert task.own_trunk is not None
    assert Tokenizer.from_directory(task.own_trunk.path).vocab_size == 300
    assert task.source["run"]["form"] == form
    points = TaskCurve(config.out / "curve.csv", 99, metric).points
    assert [p.step for p in points] == list(range(1, report.num_steps + 1))
    assert [p.epoch for p in points if p.dev_metric is not None] == [1, 2, 3, 4]
    assert points[0].lm_loss == pytest.approx(5.7, abs=0.3)  # log 300: nothing known
    assert (config.out / "curve.png").stat().st_size > 0
    assert json.loads((config.out / "report.json").read_text()) == report.to_dict()
    assert any(f"{metric} {report.dev[metric]:.4f}" in line for line in report.lines())


@pytest.mark.parametrize("train", ["lora", "head"])
def test_a_shared_trunk_is_left_as_it_is(configure: Fine, train: str) -> None:
    names = ("0=bad", "1=good")
    config = configure("classification", train=train, label_names=names, lm_coef=0.0, num_epochs=6)
    report = finetune(config)
    task = opened(config)
    assert task.own_trunk is None
    assert task.description.trunk_hash == open_checkpoint(config.start_from).weights_hash
    assert task.description.config.labels == ("bad", "good")
    assert bool(task.adapters) == (train == "lora")
    assert report.num_trained == sum(tensor.numel() for tensor in task.tensors().values())
    if train == "lora":
        assert report.dev["accuracy"] > 0.9


def test_the_best_epoch_is_kept(configure: Fine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dev gets worse after the second epoch: what is saved are the weights of that one."""
    seen: list[Tensor] = []

    def found(network: Any, *_: Any) -> list[None]:
        seen.append(network.head_weight.detach().clone())
        return []

    monkeypatch.setattr("training.finetune.answers", found)
    monkeypatch.setattr(
        "training.finetune.metrics",
        lambda *_: {"accuracy": [0.2, 0.7, 0.7, 0.1, 0.5][min(len(seen), 5) - 1]},
    )
    config = configure("classification")
    report = finetune(config)
    assert report.best_epoch == 2
    assert torch.equal(opened(config).head.weight, seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_the_learning_rate_climbs_and_falls_to_zero() -> None:
    rates = [rate_at(step, 1000, 0.002) for step in range(1000)]
    assert rates[:3] == [0.5, 1.0, 1.0 - 0 / 998]
    assert rates[501] == pytest.approx(1 - 499 / 998)
    assert 0 < rates[-1] == pytest.approx(1 / 998)
    assert rate_at(0, 10, 0.0) == 1.0


# --- interruption -------------------------------------------------------------------------------

LONG = {"checkpoint_steps": 5, "dropout": 0.1, "num_epochs": 2, "batch_size": 16}


@pytest.fixture
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all steps of these runs."""
    monkeypatch.setattr(TaskCurve, "draw", lambda _: None)


def outcome(run: Path, trunk: Path) -> tuple[list[object], ...]:
    """Parameters and optimiser, the saved task, the curve: what must not differ."""
    state = torch.load(run / "state.pt", weights_only=True)
    task = open_task(run / "task", open_checkpoint(trunk))
    points = TaskCurve(run / "curve.csv", 99, "accuracy").points
    curve: list[object] = [(p.step, p.task_loss, p.lm_loss, p.dev_metric) for p in points]
    return values(state["learner"]), values(state["best"]), values(task.tensors()), curve


@pytest.mark.usefixtures("_no_picture")
@pytest.mark.parametrize(
    ("target", "name", "call"),
    [
        (FinetuneLearner, "step", 1),  # before anything is saved
        (FinetuneLearner, "step", 9),  # in the second epoch, after a best one was kept
        (RunDirectory, "save_state", 2),  # the curve is new, the state is old
        (RunDirectory, "replace_task", 1),  # all is trained, nothing is there yet
    ],
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    configure: Fine, trunk: Path, tmp_path: Path, target: type, name: str, call: int
) -> None:
    options = {**LONG, "train": "lora", "name": "same"}
    whole = configure("classification", **options, out=tmp_path / "whole")
    finetune(whole)
    config = configure("classification", **options)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, target, name, call)
        with pytest.raises(Interrupted):
            finetune(config)
    torch.manual_seed(12345)  # another process would not have the same global generator
    finetune(config)
    assert outcome(config.out, trunk) == outcome(whole.out, trunk)


def test_a_finished_run_is_only_scored_again_also_on_examples_that_come_later(
    configure: Fine, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure("classification", num_epochs=1)
    first = finetune(config)
    interrupt(monkeypatch, FinetuneLearner, "step", 1)
    assert finetune(config) == first
    with_test = configure("classification", num_epochs=1, test=config.dev)
    assert finetune(with_test).test == first.dev


# --- what is refused ----------------------------------------------------------------------------


def test_every_problem_of_all_files_at_once(configure: Fine, tasks: Path) -> None:
    config = configure("classification", max_len=65, label_names=("2=x",))
    for name in ("reviews", "reviews-dev"):
        with (tasks / f"{name}.tsv").open("a") as file:
            file.write("\t1\nno label\n" + ("strange\tperhaps\n" if "dev" in name else ""))
    assert problems(config) == [
        f"max_len must be at most 64, the positions of {config.start_from}, got 65",
        f"{config.data}:97: 'text' is empty",
        f"{config.data}:98: has 1 fields, there are 2 columns",
        f"{config.dev}:33: 'text' is empty",
        f"{config.dev}:34: has 1 fields, there are 2 columns",
        f"label_names has '2', which is no label of {config.data}",
        f"{config.dev}:35: label must be one of 0, 1, got 'perhaps'",
    ]
    assert not config.out.exists()


def test_labels_of_other_kinds(configure: Fine, tasks: Path) -> None:
    (tasks / "scores.csv").write_text("a,b,score\nx,y,9\nx,y,high\nx,y,nan\nx,y,1\n")
    config = configure("similarity")
    assert problems(config) == [
        f"{config.data}:2: label must be from 1 to 5, got '9'".replace("'", ""),
        f"{config.data}:3: label must be a number, got 'high'",
        f"{config.data}:4: label must be from 1 to 5, got nan",
    ]
    (tasks / "choices.jsonl").write_text('{"q": "a", "x": "b", "y": "c", "label": 2}\n')
    config = configure("multiple_choice")
    assert problems(config) == [f"{config.data}:1: label must be one of 0, 1, got '2'"]


def test_one_class_is_none(configure: Fine, tasks: Path) -> None:
    (tasks / "reviews.tsv").write_text("good\t1\nfine\t1\n")
    (tasks / "reviews-dev.tsv").write_text("good\t1\n")
    assert problems(configure("classification")) == [
        "labels must be 2 to 10,000 for classification, got 1"
    ]


def test_a_directory_with_another_run_is_refused_field_by_field(
    configure: Fine, tasks: Path
) -> None:
    config = configure("classification", num_epochs=1)
    finetune(config)
    assert problems(configure("classification", num_epochs=1, seed=7)) == [
        f"{config.out} holds another run",
        "seed is 0 there and 7 here",
    ]
    with (tasks / "reviews-dev.tsv").open("a") as file:
        file.write("good\t1\n")
    assert "dev_sha256 is" in problems(config)[1]
    assert problems(configure("classification", num_epochs=1, resume=False))[0].endswith("is off")


def test_a_share_is_held_out_by_the_seed(configure: Fine) -> None:
    from training.finetune_preparation import prepare_finetuning

    def split(**changes: Any) -> tuple[set[str], set[str]]:
        config = configure("classification", dev=None, dev_share=0.25, **changes)
        prepared = prepare_finetuning(config)
        training, dev = (
            {row.where for row in part.rows} for part in (prepared.training, prepared.dev)
        )
        assert (len(training), len(dev), len(training & dev)) == (72, 24, 0)
        return training, dev

    assert split() == split()
    assert split(out=configure("classification").out.with_name("b"), seed=1)[1] != split()[1]
    fewer = configure("classification", dev=None, dev_share=0.25, num_examples=40)
    prepared = prepare_finetuning(replace(fewer, out=fewer.out.with_name("c")))
    assert (len(prepared.training.rows), len(prepared.dev.rows)) == (30, 10)
    few = configure("classification", dev=None, dev_share=0.001)
    assert problems(few) == ["dev_share 0.001 leaves no examples on one side"]


def test_a_run_that_diverges_stops_and_says_so(
    configure: Fine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FinetuneLearner, "step", lambda *_: (float("nan"), 1.0))
    config = configure("classification")
    assert problems(config) == ["the loss is nan at step 1: lower learning_rate"]
    assert not (config.out / "state.pt").exists()


def test_a_gpu_that_is_not_there(configure: Fine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = configure("classification", device="cuda")
    assert problems(config) == ["device is cuda, but torch finds no GPU here"]


def test_a_decoder_that_is_no_checkpoint(configure: Fine, tmp_path: Path) -> None:
    (found,) = problems(configure("classification", start_from=tmp_path / "none"))
    assert found == f"{tmp_path / 'none'} does not exist"
