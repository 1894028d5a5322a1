"""The same engine on a GPU, where there is one: TRITON_INTERPRET=0 pytest tests/engine/device."""

from __future__ import annotations

import random

import pytest
import torch

from engine.device.build import DeviceShape, device_core
from engine.device.core import DeviceCore
from engine.device.cuda import CudaStream
from engine.device.loader import Choice, build_device_core, decoder_maker
from engine.device.network import DTYPES
from engine.messages import EngineConfig
from engine.request import Request, SamplingParams
from tests.support.device import (
    CONFIG,
    Answer,
    answers,
    cpu_answers,
    random_weights,
    request,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

KERNELS = ("torch", "triton", "triton-fast")


def core_on_card(kernels: str, dtype: str = "float32", num_slots: int = 40) -> DeviceCore:
    """Every cache position poisoned."""
    stream = CudaStream()
    choice = Choice(dtype, dtype, kernels, CONFIG.num_positions)
    make = decoder_maker(CONFIG, random_weights(), choice, stream.device)
    shape = DeviceShape(num_slots, CONFIG.num_positions, DTYPES[dtype], keeps_generated=False)
    core = device_core(CONFIG, make, stream, shape)
    stream.mark().wait()
    for slot in range(num_slots + 1):
        core.runner.cache.poison(slot)
    torch.cuda.synchronize()
    return core


def alone(kernels: str, asked: list[Request]) -> dict[int, Answer]:
    core, found = core_on_card(kernels, num_slots=1), dict[int, Answer]()
    for one in asked:
        found |= answers(core, [one])
    return found


@pytest.mark.parametrize("kernels", KERNELS)
def test_greedy_tokens_are_those_of_the_cpu(kernels: str) -> None:
    asked = [request(i, i, 0.0, num_logprobs=None, top_k=i % 3) for i in range(40)]
    assert answers(core_on_card(kernels), asked) == cpu_answers(asked)


@pytest.mark.parametrize("kernels", KERNELS[:2])
def test_bits_are_the_same_alone_and_among_others(kernels: str) -> None:
    asked = [request(i, i, (i % 3) * 0.7, top_p=0.9 + 0.1 * (i % 2)) for i in range(32)]
    assert answers(core_on_card(kernels), asked) == alone(kernels, asked)


@pytest.mark.parametrize("kernels", KERNELS[:2])
def test_bits_after_aborts_at_random_moments(kernels: str) -> None:
    draw = random.Random(0)
    kept = [request(i, i) for i in range(9)]
    core = core_on_card(kernels, num_slots=4)
    doomed = [request(100 + i, draw.randrange(50), max_tokens=40) for i in range(12)]
    core.submit(doomed)
    for one in doomed:
        core.step()
        core.abort([one.request_id])
    assert answers(core, kept).items() >= alone(kernels, kept).items()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_whole_engine_is_built_by_what_is_free(dtype: str) -> None:
    config = EngineConfig("", dtype=dtype)
    core, info = build_device_core(CONFIG, random_weights(), config, "hash", "source")
    assert info.num_slots == 1_024
    asked = Request(0, (1, 2, 3), SamplingParams(max_tokens=5, ignore_eos=True))
    assert len(answers(core, [asked])[0][0]) == 5
