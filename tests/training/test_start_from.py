"""Runs that go on from a checkpoint: its shape, its vocabulary, its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.test_pretrain import outcome, pretrain_interrupted, problems
from tests.training.tiny_run import Configure
from training.learner import Learner
from training.pretrain import pretrain
from weights.checkpoint import open_checkpoint

ITS_OWN: dict[str, Any] = dict.fromkeys(("num_layers", "num_channels", "num_heads", "vocab_size"))


@pytest.fixture
def first(configure: Configure, tmp_path: Path) -> Path:
    return pretrain(configure(out=tmp_path / "first", num_steps=40)).checkpoint


def test_a_run_begins_where_the_checkpoint_stands(
    configure: Configure, first: Path, tmp_path: Path
) -> None:
    """A learning rate of next to nothing leaves the weights as they were given."""
    config = configure(start_from=first, num_steps=1, learning_rate=1e-12, **ITS_OWN)
    report = pretrain(config)
    before, after = open_checkpoint(first), open_checkpoint(report.checkpoint)
    assert after.config == before.config
    assert before.tensors.keys() == after.tensors.keys()
    assert all(torch.equal(before.tensors[name], after.tensors[name]) for name in before.tensors)
    assert after.source["started_from"] == before.source
    assert (first / "tokenizer.json").read_bytes() == (
        report.checkpoint / "tokenizer.json"
    ).read_bytes()


def test_it_goes_on_learning(configure: Configure, first: Path, tmp_path: Path) -> None:
    config = configure(start_from=first, num_steps=40, **ITS_OWN)
    scratch = pretrain(configure(out=tmp_path / "scratch", num_steps=40))
    assert pretrain(config).loss < scratch.loss - 0.1


def test_an_interruption_changes_nothing(configure: Configure, first: Path, tmp_path: Path) -> None:
    options = {"start_from": first, "checkpoint_steps": 3, **ITS_OWN}
    whole = configure(out=tmp_path / "whole", **options)
    pretrain(whole)
    config = configure(**options)
    pretrain_interrupted(config, Learner, "step", 1)  # before anything is saved
    pretrain_interrupted(config, Learner, "step", 8)
    pretrain(config)
    assert outcome(config.out) == outcome(whole.out)


def test_another_checkpoint_makes_another_run(
    configure: Configure, first: Path, tmp_path: Path
) -> None:
    pretrain(configure(start_from=first, num_steps=1, **ITS_OWN))
    second = pretrain(configure(out=tmp_path / "second", num_steps=1, seed=9)).checkpoint
    (_, difference) = problems(configure(start_from=second, num_steps=1, **ITS_OWN))
    assert difference.startswith("start_weights_hash is ")


def test_checkpoints_that_cannot_be_gone_on_from(
    configure: Configure, first: Path, tmp_path: Path
) -> None:
    (message,) = problems(configure(start_from=tmp_path / "nowhere", **ITS_OWN))
    assert message == f"{tmp_path / 'nowhere'} does not exist"
    longer = configure(start_from=first, window_len=64, **ITS_OWN)
    assert problems(longer) == [
        f"window_len must be at most 32, the positions of {first}, got 64"
    ]  # fmt: skip
    assert not longer.out.exists()
