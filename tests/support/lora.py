"""Random thin matrices, and the decoder that has them in its own: what adapters must compute."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from model.config import GPTConfig
from model.lora import LORA_A, LORA_B, LORA_TARGETS, LoraConfig, adapter_shapes


def random_thin(
    config: GPTConfig, seed: int, rank: int = 3, targets: tuple[str, ...] = LORA_TARGETS
) -> dict[str, Tensor]:
    """As a task stores them, large enough to change what the decoder says."""
    generator = torch.Generator().manual_seed(seed)
    shapes = adapter_shapes(config, LoraConfig(rank, 1.0, targets))
    return {name: torch.randn(shape, generator=generator) * 0.15 for name, shape in shapes.items()}


def adapted(weight: Tensor, lora_a: Tensor, lora_b: Tensor, scale: float) -> Tensor:
    """W + scale * B A: (M, K), (r, K), (M, r) -> (M, K), float32."""
    return weight.float() + scale * (lora_b @ lora_a)


def merged(
    tensors: Mapping[str, Tensor], thin: Mapping[str, Tensor], scale: float
) -> dict[str, Tensor]:
    """Every matrix that has thin ones beside it as :func:`adapted` makes it."""
    out = dict(tensors)
    for name in (key.removesuffix(f".{LORA_A}") for key in thin if key.endswith(LORA_A)):
        thin_ones = thin[f"{name}.{LORA_A}"], thin[f"{name}.{LORA_B}"]
        out[f"{name}.weight"] = adapted(tensors[f"{name}.weight"], *thin_ones, scale)
    return out
