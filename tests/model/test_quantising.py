"""A whole checkpoint quantised: what becomes a matrix, what stays, and in which dtype."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.config import NORM_PLACEMENTS, GPTConfig, NormPlacement
from model.decoder import parameter_shapes
from model.equalise import equalise
from model.quantised import Int4Matrix, Int8Matrix
from model.quantising import method_problems, quantise_tensors

CONFIG = GPTConfig(97, 32, 64, 2, 2, 256)


def tensors(config: GPTConfig, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    return {
        name: (torch.randn(shape) * 0.1 + ("ln_" in name)).to(dtype)
        for name, shape in parameter_shapes(config).items()
    }


@pytest.mark.parametrize("placement", NORM_PLACEMENTS)
@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize(("method", "kind"), [("int8", Int8Matrix), ("int4", Int4Matrix)])
def test_matrices_and_the_rest(
    method: str, kind: type, is_tied: bool, placement: NormPlacement
) -> None:
    config = replace(CONFIG, is_head_tied=is_tied, norm_placement=placement)
    given = tensors(config)
    plain, matrices = quantise_tensors(config, given, method)
    names = {name for name in given if ".c_" in name and name.endswith(".weight")}
    assert matrices.keys() == names | {"lm_head.weight"}
    assert plain.keys() == given.keys() - matrices.keys()
    assert all(isinstance(matrices[name], kind) for name in names)
    assert isinstance(matrices["lm_head.weight"], Int8Matrix)
    for name, tensor in plain.items():
        is_embedding = name in ("wte.weight", "wpe.weight")
        assert tensor.dtype == (torch.bfloat16 if is_embedding else torch.float32)
    assert torch.equal(plain["wte.weight"], given["wte.weight"])


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_norm_and_its_matrix_are_still_the_same_function(is_tied: bool) -> None:
    """With an outlier channel planted, which int8 alone would not survive."""
    config = replace(CONFIG, is_head_tied=is_tied)
    given = tensors(config, torch.float32)
    pairs = [("h.1.ln_1", "h.1.attn.c_attn"), ("h.0.ln_2", "h.0.mlp.c_fc")]
    pairs += [] if is_tied else [("ln_f", "lm_head")]
    for norm, linear in pairs:
        given[f"{norm}.weight"][9] *= 1000
        given[f"{linear}.weight"][:, 9] /= 1000
    plain, matrices = quantise_tensors(config, given, "int8")
    x = torch.randn(20, 64)
    for norm, linear in pairs:
        name = f"{linear}.weight"
        expected = (x * given[f"{norm}.weight"] + given[f"{norm}.bias"]) @ given[name].T
        y = x * plain[f"{norm}.weight"] + plain[f"{norm}.bias"]
        assert (y @ matrices[name].dequantise().T - expected).norm() < 0.01 * expected.norm()
        assert y.abs().amax() < 30 * y.abs().median()


def test_errors_count_by_the_size_that_a_norm_gives_their_inputs() -> None:
    given = tensors(CONFIG)
    given["h.0.ln_2.bias"][::5] *= 20
    _, matrices = quantise_tensors(CONFIG, given, "int4")
    equalised = equalise(CONFIG, given)
    energy = equalised["h.0.ln_2.weight"].square() + equalised["h.0.ln_2.bias"].square()
    name = "h.0.mlp.c_fc.weight"
    expected = Int4Matrix.quantise(equalised[name], energy)
    assert torch.equal(matrices[name].packed, expected.packed)
    assert not torch.equal(expected.packed, Int4Matrix.quantise(equalised[name]).packed)


def test_a_tied_head_is_the_embedding_as_it_is() -> None:
    given = tensors(CONFIG)
    plain, matrices = quantise_tensors(CONFIG, given, "int8")
    assert torch.equal(plain["ln_f.weight"], given["ln_f.weight"].float())
    expected = Int8Matrix.quantise(given["wte.weight"])
    assert torch.equal(matrices["lm_head.weight"].packed, expected.packed)


def test_what_cannot_be_is_refused_by_name() -> None:
    narrow = replace(CONFIG, num_channels=80, num_inner=100)
    assert method_problems(narrow, "int8") == []
    assert method_problems(narrow, "int4") == [
        "int4 needs num_channels to be a multiple of 32, got 80",
        "int4 needs num_inner to be a multiple of 32, got 100",
    ]
    with pytest.raises(ValueError, match="one of int8, int4, got 'int3'"):
        quantise_tensors(CONFIG, tensors(CONFIG), "int3")
    with pytest.raises(ValueError, match="got 80; int4 needs num_inner"):
        quantise_tensors(narrow, tensors(narrow), "int4")


def test_int4_weighs_the_inputs_of_a_post_norm_decoder_by_the_norm_they_come_from() -> None:
    """An input that the norm of the layer before lets grow is met better than the others."""
    config = replace(CONFIG, norm_placement="post")
    given = tensors(config, torch.float32)
    given["h.0.ln_2.weight"][9] = 100
    name = "h.1.attn.c_attn.weight"
    _, matrices = quantise_tensors(config, given, "int4")
    errors = (matrices[name].dequantise() - given[name]).square().mean(0)  # (M, K) -> (K)
    assert errors[9] < 0.1 * errors[torch.arange(64) != 9].mean()
