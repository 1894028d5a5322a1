"""The kernels' decoder behind the graphs, its operations by their references."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.device.build import MakeDecoder
from engine.device.kernel_decoder import KernelDecoder
from engine.device.torch_decoder import Decoder
from engine.request import Request, SamplingParams
from model.kernels.gpu import launch, reference
from model.kernels.gpu.decoder import GPUDecoder
from model.kernels.gpu.operations import Operations
from model.kernels.gpu.weights import Weights
from model.slot_cache import SlotCache
from tests.support.device import CONFIG, LateStream, answers, make_core, random_weights


def kernel_decoder(operations: Operations = reference) -> MakeDecoder:
    weights = Weights.from_tensors(CONFIG, random_weights(), torch.float32, "cpu")

    def make(cache: SlotCache) -> Decoder:
        return KernelDecoder(GPUDecoder(CONFIG, weights, cache, operations), 16, 2_048)

    return make


def requests() -> list[Request]:
    """Shared beginnings, several spans in a chunk, simple and full draws."""
    options: list[dict[str, Any]] = [
        {},
        {"top_k": 9},
        {"repetition_penalty": 1.2},
        {"min_tokens": 4},
    ]
    return [
        Request(
            i,
            (*range(40 * (i % 2)), *range(i, 2 * i + 3)),
            SamplingParams(max_tokens=9, seed=i, temperature=0.4 * (i % 3), **options[i % 4]),
        )
        for i in range(10)
    ]


@pytest.mark.parametrize("num_ahead", [1, 8])
def test_tokens_are_those_of_the_torch_decoder(num_ahead: int) -> None:
    core = make_core(LateStream(), num_ahead=num_ahead, make_decoder=kernel_decoder())
    found = answers(core, requests())
    assert found == answers(make_core(), requests())


def test_prompts_are_scored_and_log_probabilities_found() -> None:
    params = SamplingParams(max_tokens=3, num_prompt_logprobs=2, num_logprobs=3, temperature=0.0)
    asked = [Request(i, tuple(range(i, 30 + i)), params) for i in range(3)]
    found = answers(make_core(LateStream(), make_decoder=kernel_decoder()), asked)
    for request_id, (ids, logprobs, _) in answers(make_core(), asked).items():
        assert found[request_id][0] == ids
        assert [one.logprob for one in found[request_id][1]] == pytest.approx(
            [one.logprob for one in logprobs], abs=1e-4
        )


def test_the_kernels_themselves_behind_the_graphs() -> None:
    """In Triton's interpreter, which is slow: two short requests, one of them with a filter."""
    asked = [
        Request(0, (3, 4, 5), SamplingParams(max_tokens=2, temperature=0.0)),
        Request(1, (3, 4, 6), SamplingParams(max_tokens=2, temperature=0.7, top_k=5)),
    ]
    core = make_core(num_slots=2, make_decoder=kernel_decoder(launch))
    assert answers(core, asked) == answers(make_core(), asked)
