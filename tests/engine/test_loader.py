"""Settings that are impossible here are refused in words, before anything is allocated."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import EngineFailed
from engine.loader import build_core
from engine.messages import EngineConfig
from model.config import GPTConfig
from model.decoder import GPT

CONFIG = GPTConfig(vocab_size=64, num_positions=64, num_channels=32, num_layers=1, num_heads=2)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"num_slots": 10**9}, r"slots must be at most \d+, got 1000000000"),
        ({"num_slots": 0}, "slots must be at least 1, got 0"),
        ({"num_threads": 100_000}, "threads must be from 1 to 1024, got 100000"),
        ({"num_threads": 0}, "threads must be from 1 to 1024, got 0"),
        ({"max_context": 65}, "max_context must be from 1 to the checkpoint's 64, got 65"),
        ({"dtype": "int3"}, "dtype must be auto"),
        ({"kernels": "foo"}, "kernels must be one of auto"),
        ({"device": "tpu"}, "device must be auto or cpu"),
    ],
)
def test_impossible_settings_are_named(options: dict[str, Any], problem: str) -> None:
    tensors = dict(GPT(CONFIG).named_parameters())
    with pytest.raises(EngineFailed, match=problem) as refused:
        build_core(CONFIG, tensors, EngineConfig(checkpoint="", **options), "hash", "a test")
    assert len(refused.value.problems) == 1
