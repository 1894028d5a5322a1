"""Whole runs of a tiny decoder: learning, interruption, refusal, and what lies there at the end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.tokenizer import Tokenizer
from tests.training.tiny_run import INTERRUPTED_OPTIONS, Configure
from training.batches import Batch
from training.bpe import END_OF_TEXT
from training.config import PretrainConfig
from training.curve import Curve
from training.errors import TrainingError
from training.learner import Learner
from training.preparation import prepare
from training.pretrain import pretrain
from training.run_directory import RunDirectory
from weights.checkpoint import open_checkpoint


class Interrupted(Exception):
    """What a kill is here: nothing runs after it but the next command."""


def interrupt(patch: pytest.MonkeyPatch, target: type, name: str, call: int) -> None:
    """Let call number ``call`` (from 1) of ``target.name`` raise, before it does anything."""
    real = getattr(target, name)
    calls = 0

    def method(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Interrupted
        return real(*args)

    patch.setattr(target, name, method)


def pretrain_interrupted(config: PretrainConfig, target: type, name: str, call: int) -> None:
    """Train until that call, which ends the process."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, target, name, call)
        with pytest.raises(Interrupted):
            pretrain(config)


def tensors(checkpoint: Path) -> dict[str, Tensor]:
    return dict(open_checkpoint(checkpoint).tensors)


def values(state: object) -> list[object]:
    """Every leaf of nested dicts and lists, in order; tensors as lists of numbers."""
    if isinstance(state, dict):
        return [leaf for key in state for leaf in (key, *values(state[key]))]
    if isinstance(state, (list, tuple)):
        return [leaf for item in state for leaf in values(item)]
    return [state.tolist() if isinstance(state, Tensor) else state]


def outcome(run: Path) -> tuple[list[object], list[object], list[object]]:
    """Parameters and optimiser, the exported checkpoint, the curve: what must not differ."""
    state = torch.load(run / "state.pt", weights_only=True)["learner"]
    points = Curve(run / "curve.csv", 99).points
    curve: list[object] = [(p.step, p.loss, p.held_out_bits_per_byte) for p in points]
    return values(state), values(tensors(run / "checkpoint")), curve


def test_a_run_learns_and_leaves_what_the_server_takes(configure: Configure) -> None:
    config = configure(num_steps=60)
    report = pretrain(config)
    points = Curve(config.out / "curve.csv", 60).points
    assert [point.step for point in points] == list(range(1, 61))
    assert points[0].loss == pytest.approx(5.7, abs=0.15)  # log 300: nothing known
    assert report.loss < 3.5
    checkpoint = open_checkpoint(report.checkpoint)
    tokenizer = Tokenizer.from_directory(report.checkpoint)
    assert checkpoint.config.vocab_size == tokenizer.vocab_size == 300
    assert checkpoint.config.eos_token_ids == (tokenizer.special_tokens[END_OF_TEXT],)
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {torch.bfloat16}
    assert checkpoint.source["origin"] == "gpt2-server pretrain"
    (score,) = report.scores
    assert score.name == "36_held_out.txt"
    assert score.num_bytes == (config.data / score.name).stat().st_size
    assert report.bits_per_byte == score.bits_per_byte < 3
    assert json.loads((config.out / "report.json").read_text()) == report.to_dict()
    assert any(f"{score.bits_per_byte:.4f} bits per byte" in line for line in report.lines())
    assert (config.out / "curve.png").stat().st_size > 0


def test_scores_in_the_course_of_a_run_are_on_the_curve(configure: Configure) -> None:
    config = configure(held_out_steps=5)
    pretrain(config)
    scored = [
        p.step for p in Curve(config.out / "curve.csv", 12).points if p.held_out_bits_per_byte
    ]
    assert scored == [5, 10]


@pytest.mark.parametrize(
    ("target", "name", "call"),
    [
        (Learner, "step", 1),  # before anything is saved
        (Learner, "step", 8),  # in the middle of an interval, after the windows have grown
        (RunDirectory, "save_state", 2),  # the checkpoint is new, the state is old
        (RunDirectory, "replace_checkpoint", 4),  # the last one
    ],
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    configure: Configure, whole_run: Path, target: type, name: str, call: int
) -> None:
    config = configure(**INTERRUPTED_OPTIONS)
    pretrain_interrupted(config, target, name, call)
    torch.manual_seed(12345)  # another process would not have the same global generator
    pretrain(config)
    assert outcome(config.out) == outcome(whole_run)


def test_a_kill_loses_at_most_one_interval(configure: Configure) -> None:
    config = configure(checkpoint_steps=5)
    pretrain_interrupted(config, Learner, "step", 10)
    state = RunDirectory(config.out).load_state()
    assert state is not None
    assert state["learner"]["num_steps_done"] == 5
    assert open_checkpoint(config.out / "checkpoint").source["num_steps_done"] == 5


def test_a_kill_before_the_run_began_leaves_no_run(configure: Configure) -> None:
    config = configure()
    pretrain_interrupted(config, RunDirectory, "write_json", 1)
    assert not config.out.exists()
    assert pretrain(config).num_steps == 12


def test_leftovers_of_a_kill_are_cleared_away(configure: Configure) -> None:
    """A killed process cannot clean up: half-made directories are found by the next one."""
    config = configure()
    leftover = config.out.with_name(f".{config.out.name}.partial")
    leftover.mkdir()
    (leftover / "train.bin").write_bytes(b"half")
    pretrain(config)
    (config.out / "checkpoint.new").mkdir()
    (config.out / ".checkpoint.new.0a1b.partial").mkdir()
    shutil.copytree(config.out / "checkpoint", config.out / "checkpoint.old")
    RunDirectory(config.out).replace_checkpoint(lambda dest: dest.mkdir())
    assert not leftover.exists()
    assert sorted(p.name for p in config.out.iterdir() if "checkpoint" in p.name) == ["checkpoint"]


def test_a_finished_run_is_only_scored_again(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pretrain(configure())
    interrupt(monkeypatch, Learner, "step", 1)
    assert pretrain(configure()) == first


def gradients(config: PretrainConfig) -> dict[str, Tensor]:
    """What the optimiser is given in the first step."""
    prepared = prepare(config)
    learner = Learner(config, prepared.decoder)
    found: dict[str, Tensor] = {}

    def keep(*_: object) -> None:
        parameters = learner.model.named_parameters()
        found.update({name: p.grad.clone() for name, p in parameters if p.grad is not None})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner.optimizer, "step", keep)
        learner.step(prepared.batches.at(0, 32), 0.1)
    return found


@pytest.mark.parametrize("accumulation", [2, 4])
def test_parts_of_a_batch_add_up_to_the_batch(
    configure: Configure, tmp_path: Path, accumulation: int
) -> None:
    options = {"dtype": "float32", "grad_clip": 1e9}
    whole = gradients(configure(**options))
    parts = gradients(configure(**options, accumulation=accumulation, out=tmp_path / "parts"))
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-7)


def test_gradients_are_clipped(configure: Configure) -> None:
    found = gradients(configure(grad_clip=0.01)).values()
    norm = torch.stack([grad.norm() for grad in found]).norm().item()
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_num_epochs_and_minutes_become_steps(configure: Configure, tmp_path: Path) -> None:
    epochs = prepare(configure(num_steps=None, num_epochs=2.0))
    num_tokens = (epochs.directory.path / "train.bin").stat().st_size / 2
    assert epochs.schedule.num_steps == pytest.approx(2 * num_tokens / 128, abs=1)
    minutes = configure(num_steps=None, max_minutes=0.05, out=tmp_path / "minutes")
    num_steps = prepare(minutes).schedule.num_steps
    assert num_steps > 12
    assert prepare(minutes).schedule.num_steps == num_steps  # decided once


def test_a_given_vocabulary_is_taken_over(configure: Configure, tmp_path: Path) -> None:
    first = pretrain(configure())
    config = configure(
        out=tmp_path / "second", vocabulary=first.checkpoint, vocab_size=None, num_steps=1
    )
    second = pretrain(config)
    files = [report.checkpoint / "tokenizer.json" for report in (first, second)]
    assert files[0].read_bytes() == files[1].read_bytes()


def problems(config: PretrainConfig) -> list[str]:
    with pytest.raises(TrainingError) as caught:
        pretrain(config)
    return caught.value.problems


def test_vocabularies_that_do_not_fit(configure: Configure, tmp_path: Path) -> None:
    vocabulary = pretrain(configure(num_steps=1)).checkpoint
    config = configure(out=tmp_path / "b", vocabulary=vocabulary, vocab_size=400)
    assert problems(config) == [
        "vocab_size is 400, but the vocabulary has 300 entries"
    ]  # fmt: skip
    (message,) = problems(configure(out=tmp_path / "b", vocab_size=5000))
    assert "vocab_size is 5000, but the vocabulary trained on this text has only" in message
    assert problems(configure(out=tmp_path / "b", vocab_size=200)) == [
        "vocab_size must be at least 257, got 200"
    ]
    (message,) = problems(configure(out=tmp_path / "b", vocabulary=tmp_path, vocab_size=None))
    assert message.startswith(f"vocabulary {tmp_path}: ")
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / ".b.partial").exists()


def test_a_directory_with_another_run_is_refused_field_by_field(configure: Configure) -> None:
    config = configure(num_steps=1)
    pretrain(config)
    before = (config.out / "state.pt").read_bytes()
    assert problems(configure(num_steps=1, learning_rate=1e-3, seed=7)) == [
        f"{config.out} holds another run",
        "learning_rate is 0.003 there and 0.001 here",
        "seed is 0 there and 7 here",
    ]
    (config.data / "12_novel.txt").write_text("Another text.")
    assert "data_sha256 is" in problems(config)[1]
    assert problems(configure(num_steps=1, resume=False))[0].endswith("resume is off")
    assert (config.out / "state.pt").read_bytes() == before


def test_a_directory_with_something_else_is_left_alone(configure: Configure) -> None:
    config = configure()
    config.out.mkdir()
    (config.out / "precious.txt").write_text("mine")
    assert problems(config) == [f"{config.out} is not empty and holds no run"]
    assert [path.name for path in config.out.iterdir()] == ["precious.txt"]


def test_a_run_that_diverges_stops_and_says_so(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(_: Learner, __: Batch, ___: float) -> float:
        return float("nan")

    config = configure()
    monkeypatch.setattr(Learner, "step", step)
    assert problems(config) == ["the loss is nan at step 1: lower learning_rate"]
    assert not (config.out / "state.pt").exists()


def test_a_gpu_that_is_not_there(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert problems(configure(device="cuda")) == ["device is cuda, but torch finds no GPU here"]
    assert not configure().out.exists()
