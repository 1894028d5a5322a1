"""LoRA's configuration, names, and arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model.config import ConfigError, GPTConfig
from model.lora import LoraConfig, adapter_of, adapter_shapes

SMALL = GPTConfig(
    vocab_size=30, num_positions=8, num_channels=6, num_layers=2, num_heads=2, num_inner=20
)


def test_names_and_shapes_of_the_thin_matrices() -> None:
    shapes = adapter_shapes(SMALL, LoraConfig(3, 6.0, ("attn.c_attn", "mlp.c_proj")))
    assert shapes["h.0.attn.c_attn.lora_a"] == (3, 6)
    assert shapes["h.0.attn.c_attn.lora_b"] == (18, 3)
    assert shapes["h.1.mlp.c_proj.lora_a"] == (3, 20)
    assert shapes["h.1.mlp.c_proj.lora_b"] == (6, 3)
    assert len(shapes) == 2 * 2 * 2
    assert adapter_shapes(SMALL, LoraConfig(3, 6.0, ("wte",))) == {
        "wte.lora_a": (3, 6),
        "wte.lora_b": (30, 3),
    }
    assert len(adapter_shapes(SMALL, LoraConfig(3, 6.0))) == 2 + 2 * 4 * 2


def test_thin_matrices_as_they_are_served() -> None:
    """In float32, with the scale in B, whatever they were stored in."""
    stored = {
        "h.1.mlp.c_fc.lora_a": torch.randn(3, 6).half(),
        "h.1.mlp.c_fc.lora_b": torch.randn(20, 3).half(),
        "wte.lora_a": torch.randn(2, 6),
        "wte.lora_b": torch.randn(30, 2),
    }
    adapter = adapter_of(stored, LoraConfig(2, 1.0).scale)
    assert adapter.keys() == {"h.1.mlp.c_fc", "wte"}
    thin = adapter["h.1.mlp.c_fc"]
    assert (thin.rank, thin.a.dtype, thin.b.dtype) == (3, torch.float32, torch.float32)
    assert torch.equal(thin.a, stored["h.1.mlp.c_fc.lora_a"].float())
    assert torch.equal(thin.b, stored["h.1.mlp.c_fc.lora_b"].float() / 2)
    assert torch.equal(thin.offset, torch.zeros(3))


def test_a_config_survives_its_plain_values() -> None:
    lora = LoraConfig(4, 8.0, ("mlp.c_fc",))
    assert LoraConfig.from_dict(lora.to_dict()) == lora


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"rank": 0}, "lora rank must be a whole number of at least 1, got 0"),
        ({"alpha": -1.0}, "lora alpha must be a number above 0, got -1.0"),
        ({"alpha": float("inf")}, "lora alpha must be a number above 0, got inf"),
        ({"targets": []}, "lora targets must be some of attn.c_attn, "),
        ({"targets": ["wpe"]}, "lora targets must be some of attn.c_attn, "),
        ({"targets": ["mlp.c_fc", "mlp.c_fc"]}, "lora targets must be some of attn.c_attn, "),
        ({"targets": "mlp.c_fc"}, "lora targets must be a list, got 'mlp.c_fc'"),
        ({"colour": 1}, "lora must be an object of rank, alpha and targets"),
    ],
)
def test_impossible_values(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LoraConfig.from_dict({"rank": 2, "alpha": 4.0, "targets": ["mlp.c_fc"], **values})
    (found,) = caught.value.problems
    assert found.startswith(problem)
