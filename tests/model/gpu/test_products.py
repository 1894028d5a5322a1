"""The fused products and what goes over rows: each kernel against torch, alone and in company."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.config import ACTIVATIONS, Activation
from model.kernels.gpu import launch, reference
from model.kernels.gpu.buffers import LayerCache, Linear, Residual, Rows
from model.kernels.gpu.tiles import product_tiles
from tests.support.gpu_cases import ints, random_linear, random_norm

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}
CHANNELS, HEADS = 36, 3


def is_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """The relative error of all together; Triton's interpreter cuts bfloat16 off, unrounded."""
    error = (found.float() - expected.float()).norm() / expected.float().norm()
    assert error.item() < TOLERANCE[dtype]


def random_residual(num_rows: int, num_partials: int, dtype: torch.dtype) -> Residual:
    partials = torch.randn(num_partials, num_rows, CHANNELS).to(dtype)
    return Residual(torch.randn(num_rows, CHANNELS) * 3 + 1, partials)


def nan_like(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(shape, float("nan"), dtype=dtype)


def empty_cache(dtype: torch.dtype) -> LayerCache:
    shape = (4, HEADS, 9, CHANNELS // HEADS)
    return LayerCache(nan_like(*shape, dtype=dtype), nan_like(*shape, dtype=dtype))


def random_rows(num_rows: int) -> Rows:
    places = torch.randperm(4 * 9)[:num_rows]
    return Rows(ints([0] * num_rows), (places // 9).int(), (places % 9).int())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_partials", [0, 3])
def test_norm_qkv(dtype: torch.dtype, num_partials: int) -> None:
    """Queries, the summed stream and each key and value in its place; nothing else is touched."""
    norm, linear = random_norm(CHANNELS), random_linear(3 * CHANNELS, CHANNELS, dtype)
    residual, rows = random_residual(19, num_partials, torch.float32), random_rows(19)
    results = []
    for module in (launch, reference):
        target, queries, cache = nan_like(19, CHANNELS), nan_like(19, CHANNELS), empty_cache(dtype)
        module.norm_qkv(residual, target, norm, linear, rows, queries, cache)
        results.append((queries, cache.keys, cache.values, target))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found.isnan(), expected.isnan())
        if not bool(expected.isnan().all()):
            is_close(found.nan_to_num(), expected.nan_to_num(), dtype)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_norm_activation(activation: Activation) -> None:
    norm, linear = random_norm(CHANNELS), random_linear(50, CHANNELS, torch.float32)
    residual = random_residual(5, 2, torch.float32)
    found, expected, target = nan_like(5, 50), nan_like(5, 50), nan_like(5, CHANNELS)
    launch.norm_activation(residual, target, norm, linear, activation, found)
    assert torch.allclose(target, residual.stream + residual.partials.sum(0), atol=1e-5)
    reference.norm_activation(residual, target, norm, linear, activation, expected)
    is_close(found, expected, torch.float32)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_far_out_and_near_zero(activation: Activation) -> None:
    x = torch.tensor([-200.0, -20, -5, -1, -1e-3, -0.0, 1e-3, 0.5, 5, 20, 200]).repeat(60)
    found, expected = x.clone(), x.clone()
    launch.activate(found, activation)
    reference.activate(expected, activation)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_split_product(dtype: torch.dtype) -> None:
    """The partial sums of all splits add up to the product and its bias."""
    num_inputs = 300
    linear = random_linear(21, num_inputs, dtype)
    x = torch.randn(18, num_inputs).to(dtype)
    num_splits = product_tiles(21, num_inputs, dtype).num_splits
    assert num_splits > 1
    found, expected = nan_like(num_splits, 18, 21), nan_like(num_splits, 18, 21)
    launch.split_product(x, linear, found)
    reference.split_product(x, linear, expected)
    is_close(found.sum(0), expected.sum(0), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_product_of_many_rows(dtype: torch.dtype) -> None:
    linear, x = random_linear(70, 45, dtype), torch.randn(66, 45).to(dtype)
    found, expected = (nan_like(66, 70, dtype=dtype) for _ in range(2))
    launch.product(x, linear, found)
    reference.product(x, linear, expected)
    is_close(found, expected, dtype)


@pytest.mark.usefixtures("independent_rows")
def test_a_rows_bits_are_the_same_alone_and_in_any_bucket() -> None:
    norm = random_norm(CHANNELS)
    c_attn = random_linear(3 * CHANNELS, CHANNELS, torch.bfloat16)
    c_proj = random_linear(CHANNELS, 300, torch.bfloat16)
    residual, rows = random_residual(33, 2, torch.float32), random_rows(33)
    x = torch.randn(33, 300).bfloat16()
    num_splits = product_tiles(CHANNELS, 300, torch.bfloat16).num_splits

    def compute(some: slice) -> tuple[Tensor, Tensor, Tensor]:
        part = Residual(residual.stream[some], residual.partials[:, some].contiguous())
        count = len(part.stream)
        target, queries = nan_like(count, CHANNELS), nan_like(count, CHANNELS)
        partials = nan_like(num_splits, count, CHANNELS)
        some_rows = Rows(rows.ids[some], rows.slots[some], rows.positions[some])
        cache = empty_cache(torch.bfloat16)
        launch.norm_qkv(part, target, norm, c_attn, some_rows, queries, cache)
        launch.split_product(x[some], c_proj, partials)
        return target, queries, partials.transpose(0, 1)

    whole = compute(slice(None))
    for some in (slice(20, 21), slice(16, 33)):
        for found, expected in zip(compute(some), whole, strict=True):
            assert torch.equal(found, expected[some])


@pytest.mark.parametrize("partial_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_norm_of_all_rows_and_of_some(partial_dtype: torch.dtype) -> None:
    """Means far from zero lose no digits: variance is never a difference of large squares."""
    norm, residual = random_norm(CHANNELS), random_residual(6, 2, partial_dtype)
    residual.stream.add_(1000)
    index = ints([4, 1])
    for some, count in ((None, 6), (index, 2)):
        found, expected = nan_like(count, CHANNELS), nan_like(count, CHANNELS)
        target = nan_like(6, CHANNELS)
        launch.norm(residual, target, norm, some, found)
        reference.norm(residual, nan_like(6, CHANNELS), norm, some, expected)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        assert int(target.isnan().any(1).sum()) == 6 - count


def test_norm_over_several_tiles_of_channels() -> None:
    norm, stream = random_norm(700), torch.randn(3, 700) + 50
    found, expected = nan_like(3, 700), nan_like(3, 700)
    for module, out in ((launch, found), (reference, expected)):
        module.norm(Residual(stream, stream[:0].unsqueeze(1)), stream, norm, None, out)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_scatter_and_embed() -> None:
    rows, wide = random_rows(7), torch.randn(7, 3 * CHANNELS).bfloat16()
    results = []
    for module in (launch, reference):
        queries, cache = nan_like(7, CHANNELS), empty_cache(torch.bfloat16)
        module.scatter(wide, rows, queries, cache)
        stream = nan_like(7, CHANNELS)
        wte, wpe = torch.arange(12.0 * CHANNELS).view(12, -1), torch.ones(9, CHANNELS)
        module.embed(
            Rows(ints([3, 11, 0, 5, 5, 1, 2]), rows.slots, rows.positions), wte, wpe, stream
        )
        results.append((queries, cache.keys.nan_to_num(7), cache.values.nan_to_num(7), stream))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


def test_float32_products_are_not_rounded_to_tf32() -> None:
    """1 + 2^-20 has bits that tf32 drops."""
    weight = torch.full((4, 32), 1 + 2.0**-20)
    partials = nan_like(1, 1, 4)
    launch.split_product(
        torch.ones(1, 32), Linear(weight, torch.zeros(4), torch.zeros(4)), partials
    )
    assert partials[0, 0, 0].item() == 32 * (1 + 2.0**-20)
