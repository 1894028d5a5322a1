"""Native products against plain ones in float64, and the same bits for a row whatever the batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.kernels import native
from model.kernels.native import NativeKernels, NativeMatrix
from model.kernels.packing import deinterleave, interleave
from model.quantised import Int4Matrix, Int8Matrix
from tests.support.attention import kernels_for

SHAPES = [(768, 2304), (3072, 768), (68, 100), (64, 97), (50, 33), (4, 1), (1, 17), (32, 48)]
"""(inputs, outputs): GPT-2's own, and sizes that no tile divides."""

PRECISIONS = ["float32", "bfloat16", "int8", "int4"]


def possible(shapes: list[tuple[int, int]]) -> list[tuple[tuple[int, int], str]]:
    """Every shape in every precision; int4 takes groups of 32 inputs alone."""
    return [(s, p) for s in shapes for p in PRECISIONS if p != "int4" or s[0] % 32 == 0]


@pytest.fixture(params=list(native.PATHS))
def kernels(request: pytest.FixtureRequest) -> NativeKernels:
    """Every path that this machine has."""
    found = kernels_for(request.param)
    assert found is not None
    return found


def weights(num_inputs: int, num_outputs: int) -> tuple[Tensor, Tensor]:
    """A weight with an outlier channel, as real checkpoints have, and a bias."""
    weight = torch.randn(num_outputs, num_inputs) * 0.02
    weight[:, num_inputs // 3] *= 30
    return weight, torch.randn(num_outputs)


def inputs(num_rows: int, num_inputs: int) -> Tensor:
    """Rows of which one is far larger, one is zero, and one channel stands out."""
    x = torch.randn(num_rows, num_inputs)
    x[num_rows // 2] *= 1000
    x[num_rows // 3] = 0
    x[:, num_inputs // 2] *= 30
    return x


def rounded_rows(x: Tensor) -> Tensor:
    """Rows in int8 and back, as every int8 product takes them, float64."""
    most = x.abs().amax(1, keepdim=True)
    # Not 127 / most, which torch takes for a reciprocal times 127.
    inverse = torch.where(most > 0, torch.tensor(127.0) / most, 0.0)
    steps = (x * inverse).round().double()
    return steps * (most / 127).double()


def product(
    precision: str, weight: Tensor, bias: Tensor | None, x: Tensor
) -> tuple[NativeMatrix, Tensor]:
    """The native matrix, and what multiplying with it should give, float64."""
    offset = 0 if bias is None else bias.double()
    if precision in ("float32", "bfloat16"):
        dtype = getattr(torch, precision)
        exact = x.to(dtype).double() @ weight.to(dtype).double().T + offset
        return NativeMatrix.from_weight(weight, bias, dtype), exact
    kind = Int4Matrix if precision == "int4" else Int8Matrix
    matrix = kind.quantise(weight)
    parts = torch.unflatten(x, 1, (-1, 32)) if precision == "int4" else x.unsqueeze(1)
    rounded = rounded_rows(parts.flatten(0, 1)).view_as(x)  # int4: each group of 32 by itself
    exact = rounded @ matrix.dequantise().double().T + offset
    return NativeMatrix.from_quantised(matrix, bias), exact


@pytest.mark.parametrize(("shape", "precision"), possible(SHAPES))
def test_products_agree_with_float64(
    kernels: NativeKernels, shape: tuple[int, int], precision: str
) -> None:
    weight, bias = weights(*shape)
    x = inputs(67, shape[0])
    for given in (bias, None):
        matrix, exact = product(precision, weight, given, x)
        got = kernels.linear(matrix, x)
        # Of the largest that the terms of a row could add up to, beside the bias.
        limits = x.abs().amax(1, keepdim=True) * weight.abs().sum(1).max() + bias.abs().max()
        assert ((got - exact).abs() <= 1e-6 * limits).all()


@pytest.mark.parametrize(("shape", "precision"), possible(SHAPES[:4]))
def test_a_row_has_the_same_bits_in_every_batch(
    kernels: NativeKernels, shape: tuple[int, int], precision: str
) -> None:
    weight, bias = weights(*shape)
    x = inputs(1024 if kernels.path == "avx512" else 150, shape[0])
    matrix, _ = product(precision, weight, bias, x)
    whole = kernels.linear(matrix, x)
    for num_rows in (1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 31, 32, 33, 64, 65, 100):
        for first in (0, 33, len(x) - num_rows):
            rows = slice(first, first + num_rows)
            assert torch.equal(kernels.linear(matrix, x[rows]), whole[rows])


def test_whole_numbers_have_the_same_sums_on_every_path() -> None:
    """int8 products differ between paths in nothing: their sums are exact."""
    weight, _ = weights(768, 100)
    x = inputs(40, 768)
    matrix = NativeMatrix.from_quantised(Int8Matrix.quantise(weight), None)
    found = [native.load(path) for path in native.available_paths()]
    results = [one.linear(matrix, x) for one in found if one is not None]
    assert all(torch.equal(result, results[0]) for result in results[1:])


@pytest.mark.parametrize("shape", [(768, 100), (64, 48), (30, 161), (7, 5)], ids=str)
def test_rows_are_looked_up(shape: tuple[int, int]) -> None:
    num_inputs, num_outputs = shape
    matrix = Int8Matrix.quantise(torch.randn(num_outputs, num_inputs))
    kernels = native.load()
    if kernels is None:
        pytest.skip("the native kernels were not built")
    ids = torch.randint(num_outputs, (99,))
    found = kernels.rows(NativeMatrix.from_quantised(matrix, None), ids)
    assert torch.equal(found, matrix.rows(ids))
    assert torch.equal(found, matrix.dequantise()[ids])


def test_extreme_bytes_do_not_saturate(kernels: NativeKernels) -> None:
    """The largest sums of products that int8 can have: 127 * 127 for every input, of both signs."""
    for sign in (1.0, -1.0):
        matrix = Int8Matrix.quantise(torch.full((20, 3072), 2.0) * sign)
        got = kernels.linear(NativeMatrix.from_quantised(matrix, None), torch.ones(3, 3072))
        assert (got - 6144 * sign).abs().max() < 0.01


@pytest.mark.parametrize(("rows", "columns", "group"), [(50, 7, 4), (48, 8, 2), (97, 33, 1)])
def test_interleaving_and_back(rows: int, columns: int, group: int) -> None:
    matrix = torch.randn(rows, columns)
    packed = interleave(matrix, group)
    assert torch.equal(deinterleave(packed, rows, columns, group), matrix)
    assert torch.equal(packed[:group], matrix[0, :group])
