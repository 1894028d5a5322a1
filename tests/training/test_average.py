"""A checkpoint on the way from one to another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.tiny_run import Configure
from training.average import main
from training.errors import TrainingError
from training.pretrain import pretrain
from weights.checkpoint import open_checkpoint


@pytest.fixture
def first(configure: Configure, tmp_path: Path) -> Path:
    return pretrain(configure(out=tmp_path / "first", num_steps=1)).checkpoint


def test_every_weight_lies_between(configure: Configure, first: Path, tmp_path: Path) -> None:
    shape = dict.fromkeys(("num_layers", "num_channels", "num_heads", "vocab_size"))
    second = pretrain(configure(start_from=first, num_steps=3, **shape)).checkpoint
    main(str(first), str(second), "0.25", str(tmp_path / "between"))
    a, b, found = (open_checkpoint(path) for path in (first, second, tmp_path / "between"))
    assert found.config == a.config
    for name, tensor in found.tensors.items():
        expected = 0.75 * a.tensors[name].float() + 0.25 * b.tensors[name].float()
        torch.testing.assert_close(tensor, expected.to(tensor.dtype))
    assert any(not torch.equal(found.tensors[name], a.tensors[name]) for name in a.tensors)
    assert (found.source["share"], found.source["second"]) == (0.25, b.source)
    assert (tmp_path / "between" / "tokenizer.json").read_bytes() == (
        first / "tokenizer.json"
    ).read_bytes()


def test_what_cannot_be_averaged(configure: Configure, first: Path, tmp_path: Path) -> None:
    other = pretrain(configure(num_steps=1, num_channels=16, vocab_size=290)).checkpoint
    with pytest.raises(TrainingError) as caught:
        main(str(first), str(other), "1.5", str(tmp_path / "between"))
    assert caught.value.problems == [
        "share must be from 0 to 1, got 1.5",
        f"{first} and {other} are not of one shape",
        f"{first} and {other} have different vocabularies",
    ]
    assert not (tmp_path / "between").exists()
