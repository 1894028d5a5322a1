"""The first GPT's files of numbers: the same logits as transformers, and every damage named."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import InvalidParams
from engine.local import LocalEngine
from engine.messages import EngineConfig
from engine.request import SamplingParams
from model.config import PRESETS
from model.tokenizer import Tokenizer
from tests.support.gpt import SMALL, random_gpt, write_openai
from tests.support.logits import assert_close, logits_of
from tests.support.vocabularies import words
from weights.checkpoint import CheckpointError, open_checkpoint
from weights.convert import convert
from weights.formats.foreign import Hints
from weights.formats.openai_gpt import read_openai_gpt

HINTS = Hints(num_heads=2)


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A small model in the released layout, without a vocabulary."""
    return write_openai(random_gpt(), tmp_path / "model")


def problems_of(path: Path) -> list[str]:
    with pytest.raises(CheckpointError) as refused:
        read_openai_gpt(path, HINTS)
    return refused.value.problems


def test_it_converts_and_computes_what_transformers_does(released: Path, tmp_path: Path) -> None:
    words(released)
    ours = convert(released, tmp_path / "ours", num_heads=2)
    assert ours.source["format"] == "openai_gpt"
    assert "params_2.npy" in ours.source["sha256"]
    assert not ours.config.eos_token_ids
    assert Tokenizer.from_directory(ours.path).encode("The Cat") == Tokenizer.from_directory(
        released
    ).encode("the cat")
    ids = torch.arange(20) * 7 % SMALL["vocab_size"]
    with torch.no_grad():
        assert_close(logits_of(ours, ids), random_gpt()(ids[None]).logits[0])


def test_it_generates(released: Path, tmp_path: Path) -> None:
    ours = convert(released, tmp_path / "ours", num_heads=2)
    engine = LocalEngine(EngineConfig(str(ours.path), dtype="float32", num_slots=2))
    params = SamplingParams(max_tokens=8, temperature=0.0)
    peer, ids = random_gpt(), [3, 50, 99]
    (answer,) = engine.generate([(ids, params)])
    for _ in range(8):
        with torch.no_grad():
            ids.append(int(peer(torch.tensor([ids])).logits[0, -1].argmax()))
    assert list(answer.token_ids) == ids[3:]
    with pytest.raises(InvalidParams, match="prompt"):  # nothing stands for its beginning
        engine.generate([([], params)])


def test_the_released_shapes_are_those_of_the_preset(shared_data: Path, tmp_path: Path) -> None:
    shapes = (shared_data / "vocab/gpt/params_shapes.json").read_bytes()
    (tmp_path / "params_shapes.json").write_bytes(shapes)
    np.save(tmp_path / "params_0.npy", np.zeros(7, np.float32))
    with pytest.raises(CheckpointError) as refused:
        read_openai_gpt(tmp_path, Hints())
    count = f"{PRESETS['gpt'].num_parameters:,}"
    assert refused.value.problems == [
        f"params_shapes.json cuts {count} numbers, the .npy files hold 7"
    ]


def test_serve_says_who_reads_it(released: Path) -> None:
    with pytest.raises(CheckpointError, match="first GPT, which `gpt2-server convert` reads"):
        open_checkpoint(released)


def test_heads_that_do_not_divide_the_channels_are_named(released: Path, tmp_path: Path) -> None:
    """Without a hint there are OpenAI's 12."""
    with pytest.raises(CheckpointError, match="multiple of num_heads, got 32 and 12"):
        convert(released, tmp_path / "ours")


def edit_shapes(change: Callable[[list[list[Any]]], object]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        shapes = json.loads((path / "params_shapes.json").read_text())
        change(shapes)
        (path / "params_shapes.json").write_text(json.dumps(shapes))

    return edit


def replace_part(array: object) -> Callable[[Path], None]:
    return lambda path: np.save(path / "params_1.npy", array, allow_pickle=True)  # type: ignore[arg-type]


def truncate(path: Path) -> None:
    file = path / "params_1.npy"
    file.write_bytes(file.read_bytes()[:-100])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no shapes": (lambda path: (path / "params_shapes.json").unlink(), "shapes.json is missing"),
    "no json": (
        lambda path: (path / "params_shapes.json").write_text("[[1"),
        "shapes.json is not readable as JSON",
    ),
    "no list": (edit_shapes(lambda shapes: shapes[3].append("x")), "must be a list of shapes"),
    "half a layer": (edit_shapes(lambda shapes: shapes.pop()), "12 for each layer, got 25"),
    "tokens": (edit_shapes(lambda shapes: shapes[1].pop()), "begin with the shapes of positions"),
    "a matrix": (
        edit_shapes(lambda shapes: shapes[2].reverse()),
        "h.0.attn.c_attn.weight has shape (96, 32, 1), expected (1, 32, 96)",
    ),
    "a part": (lambda path: (path / "params_1.npy").unlink(), "params_1.npy is missing"),
    "truncated": (truncate, "params_1.npy cannot be read: it should hold"),
    "another dtype": (replace_part(np.zeros(9)), "params_1.npy cannot be read: it is not"),
    "two axes": (
        replace_part(np.zeros((3, 3), np.float32)),
        "params_1.npy cannot be read: it is not",
    ),
    "objects": (replace_part(np.array([{}])), "params_1.npy cannot be read: it is not"),
    "a part too short": (replace_part(np.zeros(9, np.float32)), "numbers, the .npy files hold"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_is_named(name: str, released: Path) -> None:
    damage, message = DAMAGES[name]
    damage(released)
    assert any(message in problem for problem in problems_of(released))


def test_all_damages_are_told_at_once(released: Path) -> None:
    (released / "params_0.npy").unlink()
    truncate(released)
    edit_shapes(lambda shapes: shapes[-1].append(1))(released)
    assert len(problems_of(released)) == 3


def test_no_damaged_header_is_anything_else_than_refused(released: Path) -> None:
    file = released / "params_1.npy"
    whole = file.read_bytes()
    draw = random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(100)] = draw.randrange(256)
        file.write_bytes(damaged)
        with suppress(CheckpointError):
            read_openai_gpt(released, HINTS)
