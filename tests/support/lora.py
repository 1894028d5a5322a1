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


def merged(
    tensors: Mapping[str, Tensor], thin: Mapping[str, Tensor], scale: float
) -> dict[str, Tensor]:
    """Every adapted matrix as W + scale * B A."""
    out = dict(tensors)
    for name in (key.removesuffix(f".{LORA_A}") for key in thin if key.endswith(LORA_A)):
        product = thin[f"{name}.{LORA_B}"] @ thin[f"{name}.{LORA_A}"]
        out[f"{name}.weight"] = tensors[f"{name}.weight"].float() + scale * product
    return out
