"""The same request gives the same tokens and the same log-probability bits, whatever else runs.

Log probabilities are compared, not only tokens: tokens hide small drift.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from engine.core import EngineCore
from engine.loader import build_core
from engine.messages import EngineConfig
from engine.networks import DTYPES
from engine.request import Request, SamplingParams, TokenLogprob
from engine.runner import Runner
from engine.step import Step, StepResult
from model.config import GPTConfig
from model.decoder import parameter_shapes
from model.kernels import native

CONFIG = GPTConfig(
    vocab_size=1_003, num_positions=256, num_channels=128, num_layers=3, num_heads=2, num_inner=512
)
Answer = tuple[list[int], list[TokenLogprob]]


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """Random weights with sharp logits, gains and biases random too."""
    torch.manual_seed(0)
    return {
        name: torch.randn(shape) * (0.5 if "wte" in name else 0.1) + ("ln_" in name)
        for name, shape in parameter_shapes(CONFIG).items()
    }


class Poisoner:
    """A runner that fills every position that nobody may read with NaN before each step."""

    def __init__(self, core: EngineCore) -> None:
        assert isinstance(core.runner, Runner)
        self._runner, self._pool = core.runner, core.scheduler.pool
        for slot in range(self._pool.num_slots):
            self._runner.cache.poison(slot)

    def run(self, step: Step) -> StepResult:
        sources = {copy.source for copy in step.copies}
        targets = {copy.target for copy in step.copies}
        for row in step.rows:
            if row.slot not in sources:  # copies come first, and one may be from this slot
                self._runner.cache.poison(row.slot, 0 if row.slot in targets else row.start)
        result = self._runner.run(step)
        logprobs = [one.logprob or 0.0 for one in result.drawn]
        logprobs += [one.logprob for scored in result.scored for one in scored]
        assert not any(map(math.isnan, logprobs))
        return result


def make_core(
    tensors: dict[str, torch.Tensor], dtype: str, kernels: str, num_slots: int = 32
) -> EngineCore:
    config = EngineConfig("random", dtype=dtype, kernels=kernels, num_slots=num_slots)
    core, _ = build_core(CONFIG, tensors, config, "hash", "source")
    core.runner = Poisoner(core)
    return core


def answers(core: EngineCore, requests: Sequence[Request]) -> dict[int, Answer]:
    """Run until all have ended."""
    core.submit(requests)
    return drain(core)


def drain(core: EngineCore) -> dict[int, Answer]:
    got: dict[int, Answer] = {}
    while core.has_work:
        for output in core.step()[0]:
            ids, logprobs = got.setdefault(output.request_id, ([], []))
            ids.extend(output.token_ids)
            logprobs.extend(output.logprobs)
        core.scheduler.check_integrity()
    return got


def request(request_id: int, seed: int, temperature: float, **options: Any) -> Request:
    """A request that is a function of its seed alone; lengths differ, beginnings are shared."""
    draw = random.Random(seed)
    shared = [7] * draw.choice([0, 20, 40])
    prompt = [*shared, *(draw.randrange(1_003) for _ in range(draw.choice([1, 3, 30, 150])))]
    params = SamplingParams(
        max_tokens=12, temperature=temperature, seed=seed, num_logprobs=3, **options
    )
    return Request(request_id, tuple(prompt), params)


@pytest.fixture(params=["torch", *native.PATHS])
def kernels(request: pytest.FixtureRequest) -> str:
    """Every kernel path that this machine has."""
    name: str = request.param
    if name != "torch" and native.load(name) is None:
        pytest.skip(f"no {name} kernels on this machine")
    return name


@pytest.mark.parametrize("dtype", DTYPES)
def test_alone_and_among_31_others(
    tensors: dict[str, torch.Tensor], dtype: str, kernels: str
) -> None:
    core = make_core(tensors, dtype, kernels)
    options: list[dict[str, Any]] = [{}, {"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.05}]
    asked = [request(i, i, (i % 2) * 1.0, **options[i % 4]) for i in range(32)]
    together = answers(core, asked)
    for one in asked[:6]:
        fresh = make_core(tensors, dtype, kernels, num_slots=1)
        alone = answers(fresh, [one])[one.request_id]
        assert together[one.request_id] == alone, "alone, in a fresh engine"
        cached = answers(fresh, [one])[one.request_id]
        assert cached == alone, "with its own prefix in the slot"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_arrivals_between_steps_change_nothing(
    tensors: dict[str, torch.Tensor], temperature: float
) -> None:
    core = make_core(tensors, "bfloat16", "auto", num_slots=5)
    asked = [request(i, i, temperature) for i in range(24)]
    expected: dict[int, Answer] = {}
    for one in asked:
        expected |= answers(make_core(tensors, "bfloat16", "auto", num_slots=1), [one])
    draw = random.Random(0)
    got: dict[int, Answer] = {}
    waiting = list(asked)
    while waiting or core.has_work:
        for _ in range(draw.choice([0, 0, 1, 3])):
            if waiting:
                core.submit([waiting.pop(0)])
        if not core.has_work:
            continue
        for output in core.step()[0]:
            ids, logprobs = got.setdefault(output.request_id, ([], []))
            ids.extend(output.token_ids)
            logprobs.extend(output.logprobs)
    assert got == expected


def test_a_resumed_request_draws_what_it_would_have(tensors: dict[str, torch.Tensor]) -> None:
    one = request(0, 3, 1.0)
    ids, logprobs = answers(make_core(tensors, "bfloat16", "auto", 1), [one])[0]
    for done in (1, 5, 11):
        resumed = Request(0, one.prompt_ids, one.params, emitted_ids=tuple(ids[:done]))
        core = make_core(tensors, "bfloat16", "auto", num_slots=1)
        assert answers(core, [resumed])[0] == (ids[done:], logprobs[done:])


def test_n_choices_differ_and_each_is_what_it_is_alone(tensors: dict[str, torch.Tensor]) -> None:
    prompt = tuple(range(100, 150))
    asked = [
        Request(i, prompt, SamplingParams(max_tokens=8, seed=5, choice_index=i, num_logprobs=0))
        for i in range(4)
    ]
    together = answers(make_core(tensors, "float32", "auto"), asked)
    assert len({tuple(ids) for ids, _ in together.values()}) == 4
    for one in asked:
        alone = answers(make_core(tensors, "float32", "auto", 1), [one])
        assert together[one.request_id] == alone[one.request_id]
