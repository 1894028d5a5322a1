"""Adapters beside a decoder that others run through, on every path and in every precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.networks import DTYPES, CacheShape, Weights, build_network
from model.attention import Span
from model.config import NORM_PLACEMENTS, GPTConfig
from model.decoder import parameter_shapes
from model.kernels import native
from model.lora import adapter_of
from model.network import Network
from tests.support.attention import kernels_for
from tests.support.lora import merged, random_thin

CONFIG = GPTConfig(
    vocab_size=301, num_positions=96, num_channels=96, num_layers=2, num_heads=3, num_inner=160
)
SCALE = 0.5
PATHS = ["torch", *native.PATHS]
OUTLIERS = [3, 40, 77]

THIN = [random_thin(CONFIG, 1), random_thin(CONFIG, 2, 5, ("attn.c_proj", "mlp.c_fc"))]
"""Beside everything, and beside two of the matrices with another rank."""

IDS = [(7 * i) % 301 for i in range(96)]
WHOLE = [Span(0, 0, 40, 0), Span(1, 0, 40), Span(2, 0, 40, 1)]
STEPS = [
    [Span(0, 0, 7, 0), Span(1, 0, 1), Span(2, 0, 33, 1)],
    [Span(1, 1, 38), Span(2, 33, 1, 1)],
    [Span(0, 7, 1, 0)],
    [Span(2, 34, 6, 1), Span(0, 8, 31, 0)],
    [Span(0, 39, 1, 0), Span(1, 39, 1)],
]
"""The same tokens in pieces, in other company."""


@pytest.fixture(scope="module", params=NORM_PLACEMENTS)
def weights(request: pytest.FixtureRequest) -> Weights:
    """Constants of values and the sizes of channels are large, so that moving them matters."""
    config = replace(CONFIG, norm_placement=request.param)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.1
        + ("ln_" in name and name.endswith("weight"))
        for name, shape in parameter_shapes(config).items()
    }
    for layer in range(config.num_layers):
        tensors[f"h.{layer}.attn.c_attn.bias"] *= 10
        tensors[f"h.{layer}.ln_1.weight"][OUTLIERS] *= 8
        tensors[f"h.{layer}.ln_2.weight"][OUTLIERS] *= 8
    return Weights(config, tensors, {})


def adapted(weights: Weights) -> Weights:
    return replace(weights, adapters=[adapter_of(thin, SCALE) for thin in THIN])


def network(weights: Weights, dtype: str, path: str) -> Network:
    found, cache, _ = build_network(weights, dtype, kernels_for(path), CacheShape(3, 96))
    for slot in range(3):
        cache.poison(slot)
    return found


@torch.inference_mode()
def hidden(one: Network, spans: list[Span]) -> Tensor:
    ids = [token for span in spans for token in IDS[span.start : span.end]]
    return one.hidden(ids, spans, list(range(len(ids))))


@pytest.fixture(scope="module")
def references(weights: Weights) -> list[Tensor]:
    """Of each of WHOLE, by a float32 decoder of its own."""
    given = [merged(weights.tensors, THIN[0], SCALE), weights.tensors]
    given.append(merged(weights.tensors, THIN[1], SCALE))
    return [
        hidden(network(replace(weights, tensors=tensors), "float32", "torch"), [Span(0, 0, 40)])
        for tensors in given
    ]


def error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_row_is_that_of_a_decoder_with_its_adapter(
    weights: Weights, references: list[Tensor], dtype: str, path: str
) -> None:
    """As near as this precision is without adapters, where the adapters change everything."""
    got = torch.split(hidden(network(adapted(weights), dtype, path), WHOLE), 40)
    plain = error(got[1], references[1])
    assert plain < (1e-5 if dtype == "float32" else 0.4)
    for index in (0, 2):
        assert error(got[index], references[index]) < max(1e-5, 1.5 * plain)
        assert error(references[1], references[index]) > 0.15


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_company_changes_no_bit(weights: Weights, dtype: str, path: str) -> None:
    """Beside other adapters or none, in pieces or whole; and without one, as without any there."""
    whole = torch.cat([hidden(network(adapted(weights), dtype, path), [span]) for span in WHOLE])
    assert torch.equal(hidden(network(adapted(weights), dtype, path), WHOLE), whole)
    one = network(adapted(weights), dtype, path)
    found = torch.empty(3, 40, CONFIG.num_channels)
    for spans in STEPS:
        lines = torch.split(hidden(one, spans), [span.length for span in spans])
        for span, line in zip(spans, lines, strict=True):
            found[span.slot, span.start : span.end] = line
    assert torch.equal(found.flatten(0, 1), whole)
    plain = hidden(network(weights, dtype, path), [Span(1, 0, 40)])
    assert torch.equal(found[1], plain)


@pytest.mark.parametrize("path", PATHS)
def test_only_the_wanted_tokens_are_given(weights: Weights, path: str) -> None:
    """The adapters stay with their rows where others are left out."""
    whole = hidden(network(adapted(weights), "float32", path), WHOLE)
    one = network(adapted(weights), "float32", path)
    for wanted in ([79, 119], [39], [0, 40, 80, 81]):
        with torch.inference_mode():
            assert torch.equal(one.hidden([*IDS[:40]] * 3, WHOLE, wanted), whole[wanted])


@pytest.mark.parametrize("path", PATHS)
def test_special_ids_have_no_row_of_b(weights: Weights, path: str) -> None:
    special = torch.randn(2, CONFIG.num_channels, generator=torch.Generator().manual_seed(5))
    shape, kernels = CacheShape(1, 96), kernels_for(path)
    thin = {name: t for name, t in THIN[0].items() if name.startswith("wte")}
    words = replace(weights, adapters=[adapter_of(thin, SCALE)])
    one = build_network(words, "float32", kernels, shape, special)[0]
    other = build_network(weights, "float32", kernels, shape, special)[0]
    with torch.inference_mode():
        got = one.hidden([301, 302], [Span(0, 0, 2, 0)], [0, 1])
        assert torch.equal(got, other.hidden([301, 302], [Span(0, 0, 2)], [0, 1]))
        changed = one.hidden([301, 5], [Span(0, 0, 2, 0)], [0, 1])
        assert not torch.equal(changed, other.hidden([301, 5], [Span(0, 0, 2)], [0, 1]))
