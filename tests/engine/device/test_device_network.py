"""A network on a device: the same logits as the plain one, each tensor once."""

from __future__ import annotations

import pytest
import torch

from engine.device.network import DTYPES, device_gpt
from model.activation import TiledActivation
from model.decoder import GPT
from model.network import gpt_with
from tests.support.device import CONFIG, random_weights
from tests.support.logits import PlainAttend

IDS = torch.arange(40)


def logits_of(gpt: GPT) -> torch.Tensor:
    with torch.inference_mode():
        return gpt.logits(gpt(IDS, torch.arange(40), PlainAttend(CONFIG)))


@pytest.mark.parametrize("is_strict", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_are_those_of_the_checkpoint(dtype: str, is_strict: bool) -> None:
    weights = random_weights()
    gpt = device_gpt(CONFIG, weights, DTYPES[dtype], torch.device("cpu"), is_strict=is_strict)
    found, expected = logits_of(gpt), logits_of(gpt_with(CONFIG, weights))
    error = float((found - expected).norm() / expected.norm())
    assert found.dtype == torch.float32
    assert error < {"float32": 1e-5, "float16": 5e-3, "bfloat16": 3e-2}[dtype]
    assert (error > 0) or dtype == "float32"


def test_norms_stay_float32_and_a_tied_head_is_one_tensor_with_the_embedding() -> None:
    gpt = device_gpt(CONFIG, random_weights(), torch.bfloat16, torch.device("cpu"), is_strict=True)
    assert gpt.wte.weight.dtype == gpt.wpe.weight.dtype == torch.bfloat16
    assert gpt.ln_f.weight.dtype == torch.float32
    assert isinstance(gpt.layers[0].mlp.activation, TiledActivation)
    exact = device_gpt(
        CONFIG, random_weights(), torch.float32, torch.device("cpu"), is_strict=False
    )
    (weight,) = (x for x in vars(exact.lm_head).values() if isinstance(x, torch.Tensor))
    assert weight.data_ptr() == exact.wte.weight.data_ptr()
