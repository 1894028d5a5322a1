"""Serving products against plain ones, and the same bits for a row whatever the batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from model import linear as serving
from model.config import GPTConfig
from model.decoder import GPT
from model.linear import (
    PackedLinear,
    TiledLinear,
    has_packed_kernels,
    is_batch_invariant,
    pack,
    with_twin_halves,
)

SHAPES = [
    (48, 144),
    (256, 768),
    (768, 2304),
    (768, 768),
    (768, 3072),
    (1024, 768),
    (1280, 3840),
    (1536, 384),
    (3072, 768),
    (768, 1003),
]
DTYPES = [torch.float32, torch.bfloat16]
ROWS = [1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 64, 100]


def weights(num_inputs: int, num_outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.randn(num_outputs, num_inputs) * 0.02
    weight[:, 3] *= 30  # an outlier channel, as real checkpoints have
    return weight, torch.randn(num_outputs)


def residues(num_inputs: int, num_outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and 300 rows whose products are 0 but for rounding: any other order shows."""
    places = torch.randperm(num_inputs)
    weight = with_twin_halves(torch.randn(num_outputs, num_inputs) * 0.02)[:, places]
    half = torch.randn(300, num_inputs // 2)
    return weight, torch.cat([half, -half], dim=1)[:, places]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [PackedLinear, TiledLinear])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_is_added_up_in_the_same_order_in_every_batch(
    shape: tuple[int, int], kind: type[PackedLinear | TiledLinear], dtype: torch.dtype
) -> None:
    """bfloat16 results round nearly every difference away, unless the terms cancel."""
    if kind is PackedLinear and not has_packed_kernels(dtype):
        pytest.skip(f"this processor has no packed {dtype} product")
    weight, x = residues(*shape)
    linear = kind(weight, None, dtype)
    whole = linear(x)
    assert whole.abs().max() < 1e-3
    assert (whole != 0).float().mean() > 0.02  # something is left to compare
    for num_rows in ROWS:
        assert torch.equal(linear(x[:num_rows]), whole[:num_rows]), num_rows
        assert torch.equal(linear(x[37 : 37 + num_rows]), whole[37 : 37 + num_rows]), num_rows


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


@pytest.mark.skipif(not has_packed_kernels(torch.bfloat16), reason="no packed bfloat16 product")
def test_the_probe_sees_what_rounding_to_bfloat16_hides() -> None:
    """A lone row of over 1,024 inputs, not computed as the first of two."""
    lone = PackedLinear(with_twin_halves(torch.randn(768, 3072) * 0.02), None, torch.bfloat16)
    assert is_batch_invariant(lone, 3072)
    lone.min_rows = 1
    x = torch.randn(2, 3072)
    x[:, 1536:] = -x[:, :1536]
    if not torch.equal(lone(x[:1]), lone(x)[:1]):  # this processor has such a kernel
        assert not is_batch_invariant(lone, 3072)


@pytest.mark.parametrize("missing", ["has_packed_kernels", "is_batch_invariant"])
def test_without_a_packed_product_that_keeps_the_promise_rows_go_in_tiles(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpt = GPT(GPTConfig(97, 32, 64, 2, 2, 256))
    monkeypatch.setattr(serving, missing, lambda *_: False)
    assert pack(gpt, torch.float32) == "tiled"
    assert isinstance(gpt.layers[1].mlp.c_fc, TiledLinear)


def test_every_shape_is_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    probed: list[int] = []

    def probe(_product: object, width: int) -> bool:
        probed.append(width)
        return True

    monkeypatch.setattr(serving, "has_packed_kernels", lambda _: True)
    monkeypatch.setattr(serving, "is_batch_invariant", probe)
    pack(GPT(GPTConfig(97, 32, 64, 2, 2, 256)), torch.float32)
    assert sorted(probed) == [64, 64, 64, 64, 256]


def test_the_reference_multiplies_tiles_of_one_height_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library's own product happens to be invariant, bits would not tell."""
    heights = []
    plain = torch.nn.functional.linear

    def spy(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        heights.append(len(x))
        return plain(x, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", spy)
    out = TiledLinear(*weights(48, 20), torch.float32)(torch.randn(37, 48))
    assert heights == [serving.TILE_ROWS] * 3
    assert out.shape == (37, 20)
