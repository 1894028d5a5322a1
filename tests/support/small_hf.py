"""The files of a very small Hugging Face checkpoint, with weights that are all different."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import torch
from safetensors.torch import save

from model.config import GPTConfig
from model.decoder import parameter_shapes
from tests.support.vocabularies import trained

CONFIG: dict[str, Any] = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_layer": 2,
    "n_embd": 16,
    "n_head": 2,
    "n_positions": 24,
    "vocab_size": 320,
    "eos_token_id": 0,
}
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


@cache
def _tensors(seed: int, num_channels: int = 16) -> dict[str, torch.Tensor]:
    config = GPTConfig(320, 24, num_channels, 2, 2, 4 * num_channels)
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in parameter_shapes(config).items():
        is_turned = ".c_" in name and name.endswith("weight")
        tensors[name] = torch.randn(shape[::-1] if is_turned else shape, generator=draw)
    return tensors


@cache
def _vocabulary() -> bytes:
    text: str = trained(["<|endoftext|>"])._tokenizer.to_str()
    return text.encode()


def small_files(seed: int = 0, num_channels: int = 16, **config: Any) -> dict[str, bytes]:
    """Name -> content: a configuration, the weights whole, a vocabulary."""
    return {
        "config.json": json.dumps({**CONFIG, "n_embd": num_channels, **config}).encode(),
        WEIGHTS: save(_tensors(seed, num_channels)),
        "tokenizer.json": _vocabulary(),
    }


def sharded_files(seed: int = 0) -> dict[str, bytes]:
    """The same checkpoint, its weights in two shards and an index."""
    names = list(_tensors(seed))
    shards = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    weight_map = {name: shard for shard, owned in shards.items() for name in owned}
    files = small_files(seed)
    del files[WEIGHTS]
    return {
        **files,
        INDEX: json.dumps({"metadata": {}, "weight_map": weight_map}).encode(),
        **{s: save({name: _tensors(seed)[name] for name in shards[s]}) for s in shards},
    }
