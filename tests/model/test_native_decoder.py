"""The native decoder against the plain one, in every precision and on every path."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from engine.networks import DTYPES, CacheShape, Weights, build_network
from model.attention import Span
from model.config import NORM_PLACEMENTS, GPTConfig
from model.decoder import parameter_shapes
from model.kernels import native
from model.kernels.decoder import unsupported
from model.network import Network
from tests.support.attention import kernels_for

CONFIG = GPTConfig(
    vocab_size=301, num_positions=96, num_channels=64, num_layers=3, num_heads=2, num_inner=160
)
CLOSENESS = {"float32": 1e-5, "bfloat16": 2e-2, "int8": 4e-2, "int4": 4e-2}
"""Largest difference to the plain network over the largest logit: rounding activations may fall
to either side of a step."""


@pytest.fixture(scope="module", params=NORM_PLACEMENTS)
def weights(request: pytest.FixtureRequest) -> Weights:
    config = replace(CONFIG, norm_placement=request.param)
    torch.manual_seed(0)
    tensors = {
        name: torch.randn(shape) * 0.1 + ("ln_" in name and name.endswith("weight"))
        for name, shape in parameter_shapes(config).items()
    }
    return Weights(config, tensors, {})


def network(weights: Weights, dtype: str, path: str) -> Network:
    found, cache, _ = build_network(weights, dtype, kernels_for(path), CacheShape(3, 96))
    for slot in range(3):
        cache.poison(slot)
    return found


@torch.inference_mode()
def logits(one: Network, steps: list[list[Span]], ids: dict[int, list[int]]) -> torch.Tensor:
    """Logits of every token of every step, in order; ``ids`` are each slot's."""
    out = []
    for spans in steps:
        given = [token for span in spans for token in ids[span.slot][span.start : span.end]]
        out.append(one.logits(one.hidden(given, spans, list(range(len(given))))))
    return torch.cat(out)


IDS = {slot: [(slot * 50 + 7 * i) % 301 for i in range(96)] for slot in range(3)}
STEPS = [
    [Span(1, 0, 40), Span(0, 0, 3)],
    [Span(0, 3, 1), Span(1, 40, 1), Span(2, 0, 50)],
    [Span(2, 50, 1)],
    [Span(0, 4, 60), Span(1, 41, 1)],
]


@pytest.mark.parametrize("path", list(native.PATHS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_agrees_with_the_plain_network(weights: Weights, dtype: str, path: str) -> None:
    expected = logits(network(weights, dtype, "torch"), STEPS, IDS)
    got = logits(network(weights, dtype, path), STEPS, IDS)
    assert got.dtype == torch.float32
    assert (got - expected).abs().max() <= CLOSENESS[dtype] * expected.abs().max()
    assert (got - expected).abs().mean() <= CLOSENESS[dtype] / 5 * expected.abs().max()


@pytest.mark.parametrize("path", list(native.PATHS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_only_the_wanted_tokens_are_given(weights: Weights, dtype: str, path: str) -> None:
    """What is left out of the last layer changes no bit of what is kept, there or later."""
    one, other = network(weights, dtype, path), network(weights, dtype, path)
    ids = [*IDS[0][:40], *IDS[1][:5]]
    spans = [Span(0, 0, 40), Span(1, 0, 5)]
    with torch.inference_mode():
        whole = one.hidden(ids, spans, list(range(45)))
        some = other.hidden(ids, spans, [0, 39, 44])
        assert torch.equal(some, whole[[0, 39, 44]])
        assert len(other.hidden([5], [Span(2, 0, 1)], [])) == 0
        nexts = [Span(0, 40, 1), Span(1, 5, 1)]
        assert torch.equal(one.hidden([3, 4], nexts, [0, 1]), other.hidden([3, 4], nexts, [0, 1]))


def test_head_lengths_that_no_vector_divides_are_named() -> None:
    assert unsupported(CONFIG) is None
    reason = unsupported(GPTConfig(10, 64, 48, 1, 2, 64))
    assert reason is not None
    assert "multiple of 16" in reason
    assert "24" in reason
