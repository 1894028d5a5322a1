"""The read bandwidth is a speed; how high it is is the machine's business."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.floor import ReadBandwidth
from bench.shapes import TINY, Shape
from model.config import PRESETS


@pytest.mark.parametrize("num_threads", [1, 2])
def test_reading(num_threads: int) -> None:
    assert ReadBandwidth(num_threads, num_bytes=1 << 20).measure() > 0


def test_bytes_of_a_token() -> None:
    """Everything but the positions: for GPT-2 small 123.6 M weights."""
    small = Shape("gpt2", PRESETS["gpt2"], Path())
    assert small.weight_bytes("int8") == pytest.approx(123.65e6, rel=1e-3)
    assert small.weight_bytes("float32") == 4 * small.weight_bytes("int8")
    tiny = Shape("tiny", TINY, Path())
    assert tiny.stored_bytes("int8") - tiny.weight_bytes("int8") == 64 * 32
