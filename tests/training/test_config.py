"""What PretrainConfig refuses, all of it in one message, and what makes two runs the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.config import PretrainConfig
from training.errors import TrainingError


def config(**values: Any) -> PretrainConfig:
    return PretrainConfig(**{"data": Path("d"), "out": Path("o"), "num_steps": 1, **values})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_layers": 0}, "num_layers must be a whole number of at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a number above 0, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number above 0, got nan"),
        ({"weight_decay": -0.1}, "weight_decay must be a number of at least 0, got -0.1"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"seed": 0.5}, "seed must be a whole number of at least 0, got 0.5"),
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, muon, got 'sgd'"),
        ({"dtype": "float16"}, "dtype must be one of bfloat16, float32, got 'float16'"),
        ({"device": "tpu"}, "device must be one of cpu, cuda, got 'tpu'"),
        ({"size": "gpt3"}, "size must be one of gpt, distilgpt2, gpt2, gpt2-medium, gpt2-large, "
                           "gpt2-xl, got 'gpt3'"),
        ({"num_epochs": 1.0}, "exactly one of num_steps, num_epochs, max_minutes must be given, "
                              "got 2"),
        ({"num_steps": None}, "exactly one of num_steps, num_epochs, max_minutes must be given, "
                              "got 0"),
        ({"batch_tokens": 1500}, "batch_tokens must be a multiple of window_len x accumulation "
                                 "= 1024, got 1500"),
        ({"accumulation": 3}, "batch_tokens must be a multiple of window_len x accumulation "
                              "= 3072, got 4096"),
        ({"short_window_len": 300}, "short_window_len must divide window_len = 1024, got 300"),
        ({"num_heads": 3}, "num_channels must be a multiple of num_heads, got 256 and 3"),
    ],
)  # fmt: skip
def test_impossible_values_are_refused_by_name(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(TrainingError) as caught:
        config(**changes)
    assert caught.value.problems == [problem]


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(TrainingError) as caught:
        config(num_steps=0, grad_clip=-1, dtype="int8", batch_tokens=7)
    assert [problem.split()[0] for problem in caught.value.problems] == [
        "num_steps",
        "grad_clip",
        "dtype",
        "batch_tokens",
    ]


def test_a_preset_gives_the_shape_and_the_text_the_rest() -> None:
    assert config(size="gpt").decoder(300, 299).is_post_norm
    decoder = config(size="gpt2-medium", window_len=512).decoder(300, 299)
    assert (decoder.num_layers, decoder.num_channels, decoder.num_heads) == (24, 1024, 16)
    assert (decoder.vocab_size, decoder.num_positions, decoder.num_inner) == (300, 512, 4096)
    assert decoder.eos_token_ids == (299,)


def test_identity_leaves_out_what_may_change_on_the_way() -> None:
    run = config(held_out=("a", "b"))
    moved = config(
        held_out=("b", "a"), out=Path("p"), num_threads=3, checkpoint_s=1.0, resume=False
    )
    assert run.identity() == moved.identity()
    assert run.identity() != config(held_out=("a", "b"), seed=1).identity()


def test_a_default_that_is_written_out_makes_no_other_run(tmp_path: Path) -> None:
    assert config(vocab_size=8192).identity() == config().identity()
    given = config(vocabulary=tmp_path)
    assert given.wanted_vocab_size is None  # whatever it has
    assert config(vocabulary=tmp_path, vocab_size=300).wanted_vocab_size == 300


@pytest.mark.parametrize(
    "given", [{"size": "gpt2"}, {"num_heads": 8}, {"vocabulary": Path("v")}, {"vocab_size": 300}]
)
def test_what_a_checkpoint_to_start_from_decides(given: dict[str, Any]) -> None:
    (name, value), *_ = given.items()
    with pytest.raises(TrainingError) as caught:
        config(start_from=Path("c"), **given)
    rule = f"{name} is that of the checkpoint in start_from, got {value!r}"
    assert caught.value.problems == [rule]
