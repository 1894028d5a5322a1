"""Serving products against plain ones, and the same bits for a row whatever the batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from model.config import GPTConfig
from model.decoder import GPT
from model.linear import PackedLinear, TiledLinear, has_packed_kernels, is_batch_invariant, pack

SHAPES = [(48, 144), (256, 768), (768, 2304), (768, 768), (768, 3072), (3072, 768), (768, 1003)]
DTYPES = [torch.float32, torch.bfloat16]
ROWS = [1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 64, 100]


def weights(num_inputs: int, num_outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.randn(num_outputs, num_inputs) * 0.02
    weight[:, 3] *= 30  # an outlier channel, as real checkpoints have
    return weight, torch.randn(num_outputs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [PackedLinear, TiledLinear])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_has_the_same_bits_in_every_batch(
    shape: tuple[int, int], kind: type[PackedLinear | TiledLinear], dtype: torch.dtype
) -> None:
    if kind is PackedLinear and not has_packed_kernels(dtype):
        pytest.skip(f"this processor has no packed {dtype} product")
    linear = kind(*weights(*shape), dtype)
    x = torch.randn(300, shape[0])
    whole = linear(x)
    for num_rows in ROWS:
        assert torch.equal(linear(x[:num_rows]), whole[:num_rows]), num_rows
        assert torch.equal(linear(x[37 : 37 + num_rows]), whole[37 : 37 + num_rows]), num_rows


@pytest.mark.parametrize("kind", [PackedLinear, TiledLinear])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_the_product_is_right(
    kind: type[PackedLinear | TiledLinear], dtype: torch.dtype, tolerance: float
) -> None:
    if kind is PackedLinear and not has_packed_kernels(dtype):
        pytest.skip(f"this processor has no packed {dtype} product")
    weight, bias = weights(768, 2304)
    x = torch.randn(9, 768)
    expected = x.double() @ weight.double().T + bias.double()
    for with_bias in (bias, None):
        out = kind(weight, with_bias, dtype)(x)
        wanted = expected if with_bias is not None else expected - bias.double()
        assert out.dtype == dtype
        assert (out.double() - wanted).abs().max() < tolerance * wanted.abs().max()


def test_the_probe_tells_a_product_that_depends_on_its_batch() -> None:
    plain = nn.Linear(32, 32)

    def dependent(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = plain(x) + len(x) * 1e-7
        return out

    with torch.no_grad():
        assert not is_batch_invariant(dependent, 32)
        assert is_batch_invariant(TiledLinear(plain.weight, plain.bias, torch.float32), 32)


@pytest.mark.parametrize("is_packed", [True, False])
def test_packing_replaces_every_layer_and_keeps_logits_float32(is_packed: bool) -> None:
    config = GPTConfig(97, 32, 64, 2, 2, 256)
    gpt = GPT(config).eval()
    path = pack(gpt, torch.bfloat16, is_packed)
    assert path == ("packed" if is_packed else "tiled")
    assert not any(isinstance(module, nn.Linear) for module in gpt.modules())
    with torch.inference_mode():
        assert gpt.logits(torch.randn(3, 64)).dtype == torch.float32
    shifted = gpt.logits(torch.full((1, 64), -100.0))
    assert not torch.equal(shifted, shifted.bfloat16().float())
