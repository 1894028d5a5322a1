"""200 requests, each alone and among up to 63 others: the same tokens, the same bits.

What is varied besides: chunks of any length, prefixes in the cache or not, arrivals between steps.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from engine.chunk_budget import ChunkBudget
from engine.core import EngineCore
from engine.loader import build_core
from engine.messages import EngineConfig
from engine.request import Request, SamplingParams, TokenLogprob
from model.config import GPTConfig, NormPlacement
from model.decoder import parameter_shapes
from model.kernels import native
from tests.support.attention import kernels_for

CONFIG = GPTConfig(
    vocab_size=307, num_positions=128, num_channels=64, num_layers=2, num_heads=2, num_inner=160
)
NUM_REQUESTS = 200
Answer = tuple[list[int], list[TokenLogprob]]


CASES: list[tuple[NormPlacement, str, str]] = [
    *(
        ("pre", dtype, kernels)
        for dtype in ("float32", "bfloat16", "int8")
        for kernels in ("torch", *native.PATHS)
    ),
    *(("post", "float32", kernels) for kernels in ("torch", *native.PATHS)),
    ("post", "int8", "avx2"),
]


def random_tensors(config: GPTConfig) -> dict[str, torch.Tensor]:
    """Random weights with sharp logits."""
    torch.manual_seed(0)
    return {
        name: torch.randn(shape) * (0.5 if "wte" in name else 0.15)
        + ("ln_" in name and name.endswith("weight"))
        for name, shape in parameter_shapes(config).items()
    }


def make_core(placement: NormPlacement, dtype: str, kernels: str, num_slots: int) -> EngineCore:
    config = replace(CONFIG, norm_placement=placement)
    chosen = EngineConfig("random", dtype=dtype, kernels=kernels, num_slots=num_slots)
    return build_core(config, random_tensors(config), chosen, "hash", "source")[0]


def requests() -> list[Request]:
    """Some share beginnings, so that prefixes are found; lengths, samplers and seeds differ."""
    draw = random.Random(0)
    made = []
    for index in range(NUM_REQUESTS):
        shared = [7] * draw.choice([0, 0, 17, 40])
        own = [draw.randrange(307) for _ in range(draw.choice([1, 2, 15, 33, 70]))]
        params = SamplingParams(
            max_tokens=draw.randint(1, 8),
            temperature=draw.choice([0.0, 0.7, 1.0]),
            top_k=draw.choice([0, 5, 40]),
            top_p=draw.choice([1.0, 0.9]),
            seed=index,
            num_logprobs=2,
            ignore_eos=True,
        )
        made.append(Request(index, tuple(shared + own), params))
    return made


def run(core: EngineCore, arrivals: Sequence[Sequence[Request]]) -> dict[int, Answer]:
    """Each group of ``arrivals`` joins before another step; then until all have ended."""
    got: dict[int, Answer] = {}
    groups = list(arrivals)
    while groups or core.has_work:
        if groups:
            core.submit(groups.pop(0))
        for output in core.step()[0] if core.has_work else []:
            ids, logprobs = got.setdefault(output.request_id, ([], []))
            ids.extend(output.token_ids)
            logprobs.extend(output.logprobs)
    return got


@pytest.mark.parametrize(("placement", "dtype", "kernels"), CASES)
def test_200_requests_alone_and_in_any_company(
    placement: NormPlacement, dtype: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels_for(kernels)
    asked = requests()
    one = make_core(placement, dtype, kernels, num_slots=1)
    alone: dict[int, Answer] = {}
    for request in asked:  # each prompt whole, unless the slot still holds its beginning
        alone |= run(one, [[request]])
    draw = random.Random(1)
    monkeypatch.setattr(ChunkBudget, "tokens", lambda *_: draw.choice([1, 3, 16, 50, 512]))
    mixed = list(asked)
    draw.shuffle(mixed)
    groups = []
    while mixed:
        size = draw.choice([0, 1, 5, 64])
        groups.append(mixed[:size])
        mixed = mixed[size:]
    together = run(make_core(placement, dtype, kernels, num_slots=64), groups)
    assert together == alone
