"""Quantised products in torch: the arithmetic, closeness, and the same bits in every batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from model import quantised_linear as serving
from model.config import GPTConfig
from model.decoder import GPT
from model.linear import pack_quantised
from model.quantised import Int4Matrix, Int8Matrix
from model.quantised_linear import (
    Int4Linear,
    Int8Linear,
    blocked_int_mm,
    has_exact_int_mm,
    quantise_rows,
    quantised_linear,
)
from model.quantising import quantise_tensors

SHAPES = [(32, 5), (96, 47), (256, 768), (768, 100), (3072, 768)]
INT8_SHAPES = [(37, 50), (6, 16), (1100, 33)]
ROWS = [1, 2, 3, 5, 16, 17, 63, 64, 65, 130]

Product = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture(params=["auto", "blocked"], autouse=True)
def _product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without a product of whole numbers in torch."""
    if request.param == "blocked":
        monkeypatch.setattr(serving, "has_exact_int_mm", lambda: False)


def inputs(num_rows: int, num_inputs: int) -> Tensor:
    """Rows with an outlier channel, an outlier row and one of zeros."""
    x = torch.randn(num_rows, num_inputs)
    x[:, 3] *= 30
    x[num_rows // 2] *= 1000
    x[num_rows // 3] = 0
    return x


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(kind, shape) for kind in (Int8Matrix, Int4Matrix) for shape in SHAPES]
    + [(Int8Matrix, shape) for shape in INT8_SHAPES],
    ids=str,
)
def test_a_row_has_the_same_bits_in_every_batch(
    kind: type[Int8Matrix | Int4Matrix], shape: tuple[int, int]
) -> None:
    num_inputs, num_outputs = shape
    matrix = kind.quantise(torch.randn(num_outputs, num_inputs) * 0.02)
    linear = quantised_linear(matrix, torch.randn(num_outputs))
    x = inputs(1024, num_inputs)
    whole = linear(x)
    assert whole.shape == (1024, num_outputs)
    assert whole.dtype == torch.float32
    for num_rows in ROWS:
        for start in (0, 500):
            rows = slice(start, start + num_rows)
            assert torch.equal(linear(x[rows]), whole[rows]), num_rows


@pytest.mark.parametrize("shape", [*SHAPES, *INT8_SHAPES], ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
def test_int8_arithmetic(shape: tuple[int, int], has_bias: bool) -> None:
    """Operation by operation what the native kernels do, on exact sums."""
    num_inputs, num_outputs = shape
    matrix = Int8Matrix.quantise(torch.randn(num_outputs, num_inputs))
    bias = torch.randn(num_outputs) if has_bias else None
    x = inputs(9, num_inputs)
    rows, scales = quantise_rows(x)
    total = rows.double() @ matrix.values().double().T
    expected = total.float() * (scales * matrix.scales[:num_outputs])
    expected = expected if bias is None else expected + bias
    assert torch.equal(Int8Linear(matrix, bias)(x), expected)


@pytest.mark.parametrize("has_bias", [True, False])
def test_int4_arithmetic(has_bias: bool) -> None:
    matrix = Int4Matrix.quantise(torch.randn(70, 96))
    bias = torch.randn(70) if has_bias else None
    x = inputs(9, 96)
    expected = torch.zeros(9, 70)
    for group in range(3):
        channels = slice(32 * group, 32 * group + 32)
        rows, scales = quantise_rows(x[:, channels])
        exact = rows.double() @ matrix.values()[:, channels].double().T
        scale = matrix.group_scales()[:, group].float() * scales
        expected = expected + exact.float() * scale
    expected = expected if bias is None else expected + bias
    assert torch.equal(Int4Linear(matrix, bias)(x), expected)


def test_rows_are_rounded_half_to_even() -> None:
    x = torch.tensor([[0.5, 1.5, 2.5, -0.5, -127], [0, 0, 0, 0, 0]])
    rows, scales = quantise_rows(x)
    assert rows.tolist() == [[0, 2, 2, 0, -127], [0, 0, 0, 0, 0]]
    assert scales.tolist() == [[1], [0]]


@pytest.mark.parametrize(("kind", "bound"), [(Int8Matrix, 0.02), (Int4Matrix, 0.12)])
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_the_product_is_close_to_that_of_float32(
    kind: type[Int8Matrix | Int4Matrix], bound: float, shape: tuple[int, int]
) -> None:
    """Each row for itself, so that an outlier row hides nothing."""
    num_inputs, num_outputs = shape
    weight, bias = torch.randn(num_outputs, num_inputs), torch.randn(num_outputs)
    x = torch.randn(64, num_inputs)
    x[7] *= 1000
    out = quantised_linear(kind.quantise(weight), bias)(x) - bias
    expected = x @ weight.T
    assert ((out - expected).norm(dim=1) < bound * expected.norm(dim=1)).all()


def test_the_product_of_whole_numbers_is_exact_at_the_extremes() -> None:
    extremes = torch.full((3, 3000), 127, dtype=torch.int8)
    weight = torch.full((3000, 20), -127, dtype=torch.int8)
    assert (blocked_int_mm(extremes, weight) == -127 * 127 * 3000).all()
    if has_exact_int_mm():
        assert torch.equal(torch._int_mm(extremes, weight), blocked_int_mm(extremes, weight))


def test_a_product_that_saturates_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processors without VNNI multiply unsigned by signed, and hold sums of two in 16 bits."""

    def saturating(x: Tensor, weight: Tensor) -> Tensor:
        pairs = (x.int() + 128)[:, :, None] * weight.int()[None]  # (N, K, M)
        sums = (pairs[:, ::2] + pairs[:, 1::2]).clamp(-(2**15), 2**15 - 1)
        return sums.sum(1).int() - 128 * weight.int().sum(0)

    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert not has_exact_int_mm.__wrapped__()
    monkeypatch.setattr(torch, "_int_mm", blocked_int_mm)
    assert has_exact_int_mm.__wrapped__()


def model() -> GPT:
    return GPT(GPTConfig(97, 32, 64, 2, 2, 256)).eval()


@pytest.mark.parametrize(("method", "kind"), [("int8", Int8Linear), ("int4", Int4Linear)])
def test_packing_replaces_every_layer_by_the_name_of_its_weight(
    method: str, kind: type[nn.Module]
) -> None:
    gpt = model()
    _, matrices = quantise_tensors(gpt.config, dict(gpt.named_parameters()), method)
    assert pack_quantised(gpt, matrices) == method
    linears = [module for module in gpt.h.modules() if isinstance(module, kind)]
    assert len(linears) == 8
    assert isinstance(gpt.lm_head, Int8Linear)
    assert not any(isinstance(module, nn.Linear) for module in gpt.modules())
    assert gpt.logits(torch.randn(3, 64)).shape == (3, 97)


def test_what_is_not_among_the_matrices_stays() -> None:
    gpt = model()
    name = "h.1.mlp.c_fc.weight"
    matrix = Int8Matrix.quantise(gpt.layers[1].mlp.c_fc.weight)
    bias = gpt.layers[1].mlp.c_fc.bias
    assert pack_quantised(gpt, {name: matrix}) == "int8"
    assert isinstance(gpt.layers[1].mlp.c_fc, Int8Linear)
    assert torch.equal(gpt.layers[1].mlp.c_fc(torch.zeros(1, 64))[0], bias)
    assert isinstance(gpt.lm_head, nn.Linear)
    assert isinstance(gpt.layers[0].mlp.c_fc, nn.Linear)
