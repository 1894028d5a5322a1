"""Every adapter computes the same network: greedy tokens of a tiny one, float32, equal ours."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from safetensors.torch import load_file

from bench.adapters import Adapter, Setting, load
from bench.scenarios import decoding
from bench.shapes import TINY, Shape, prepared_shape, random_tensors
from bench.systems import PEERS, System, ours

SCENARIO = decoding(4, 16, 12)
ROUNDS = range(3, 12)
"""Of the prompts before these, two come to a near tie, and llama.cpp's cache is float16."""

FLOAT32 = [peer for peer in PEERS if peer.dtype == "float32"]
OTHERS = [peer for peer in PEERS if peer.dtype != "float32"]


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> Shape:
    return prepared_shape("tiny", None, tmp_path_factory.mktemp("shape"))


def loaded(system: System, shape: Shape, scratch: Path) -> Adapter:
    for module in system.modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    adapter = load(system.adapter, Setting(shape.folder, scratch, system.precision, 1, 4))
    adapter.prepare(SCENARIO.num_streams, SCENARIO.total_len)
    return adapter


def prompts(round_index: int = 1) -> list[list[int]]:
    return SCENARIO.prompts(TINY.vocab_size, round_index)


@pytest.mark.parametrize("system", FLOAT32, ids=lambda system: system.name)
def test_the_same_tokens_as_ours(system: System, shape: Shape, tmp_path: Path) -> None:
    """Twice each: nothing of the first run is left in the second."""
    peer, own = loaded(system, shape, tmp_path), loaded(ours("float32"), shape, tmp_path)
    for index in ROUNDS:
        expected = own.generate(prompts(index), SCENARIO.num_tokens)
        found = peer.generate(prompts(index), SCENARIO.num_tokens)
        assert found.token_ids == expected.token_ids
        # a network that repeats itself would prove nothing
        assert max(len(set(row)) for row in found.token_ids) > 4
        for timing in (found, expected):
            assert timing.prefill_s > 0
            assert len(timing.step_s) == SCENARIO.num_tokens - 1


@pytest.mark.parametrize("system", OTHERS, ids=lambda system: system.name)
def test_at_other_precisions_it_runs(system: System, shape: Shape, tmp_path: Path) -> None:
    found = loaded(system, shape, tmp_path).generate(prompts(), SCENARIO.num_tokens)
    assert [len(row) for row in found.token_ids] == [SCENARIO.num_tokens] * 4
    assert all(0 <= token < TINY.vocab_size for row in found.token_ids for token in row)


def test_a_checkpoint_is_copied_as_it_is(shape: Shape, tmp_path: Path) -> None:
    copy = prepared_shape("gpt2", shape.folder, tmp_path)
    assert copy.config == TINY
    tensors = load_file(copy.folder / "model.safetensors")
    assert all(tensors[name].equal(tensor) for name, tensor in random_tensors(TINY).items())
