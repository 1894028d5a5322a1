"""Random weights of the first GPT: in transformers, and as OpenAI's files of numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

SMALL: Mapping[str, int] = {
    "n_layer": 2,
    "n_embd": 32,
    "n_head": 2,
    "n_positions": 24,
    "vocab_size": 120,
}
PARTS = 3
"""Numbers are split among so many files, at borders that no tensor has."""


def random_gpt(**options: Any) -> OpenAIGPTLMHeadModel:
    """Every parameter random, gains and biases too."""
    torch.manual_seed(0)
    peer = OpenAIGPTLMHeadModel(OpenAIGPTConfig(**{**SMALL, **options}))
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            parameter.normal_(std=0.05 if parameter.dim() > 1 else 0.2)
            if "ln_" in name and name.endswith("weight"):
                parameter.add_(1)
    return peer.eval()


def openai_order(peer: OpenAIGPTLMHeadModel) -> list[torch.Tensor]:
    """The parameters as OpenAI's graph made them; its matrices have one axis more in front."""
    trunk = peer.transformer
    tensors = [trunk.positions_embed.weight, trunk.tokens_embed.weight]
    for layer in trunk.h:
        for linear, norm in (
            ((layer.attn.c_attn, layer.attn.c_proj), layer.ln_1),
            ((layer.mlp.c_fc, layer.mlp.c_proj), layer.ln_2),
        ):
            for conv in linear:
                tensors += [conv.weight[None], conv.bias]
            tensors += [norm.weight, norm.bias]
    return [tensor.detach() for tensor in tensors]


def write_openai(peer: OpenAIGPTLMHeadModel, path: Path, num_parts: int = PARTS) -> Path:
    """params_0.npy and so on, and params_shapes.json."""
    tensors = openai_order(peer)
    path.mkdir(exist_ok=True)
    (path / "params_shapes.json").write_text(json.dumps([list(t.shape) for t in tensors]))
    numbers = torch.cat([tensor.flatten() for tensor in tensors]).numpy()
    for index, part in enumerate(np.array_split(numbers, num_parts)):
        np.save(path / f"params_{index}.npy", part)
    return path
