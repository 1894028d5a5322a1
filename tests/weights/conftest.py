"""Small Hugging Face checkpoints, written by the current transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

HFWriter = Callable[..., Path]
TensorsEditor = Callable[[Path, Callable[[dict[str, torch.Tensor]], None]], None]
ConfigEditor = Callable[..., None]

SMALL: dict[str, Any] = {
    "n_layer": 2,
    "n_embd": 16,
    "n_head": 2,
    "n_positions": 12,
    "vocab_size": 30,
    "bos_token_id": 0,
    "eos_token_id": 29,
}


def write_hf(
    path: Path, *, max_shard_size: str = "1GB", dtype: torch.dtype = torch.float32, **options: Any
) -> Path:
    """A model with every parameter random: ones and zeros would hide a swapped gain or bias."""
    torch.manual_seed(len(options))
    model = GPT2LMHeadModel(GPT2Config(**{**SMALL, **options}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.to(dtype).save_pretrained(path, max_shard_size=max_shard_size)
    return path


@pytest.fixture
def hf_dir(tmp_path: Path) -> Path:
    """A plain small checkpoint."""
    return write_hf(tmp_path / "hf")


@pytest.fixture
def hf_writer(tmp_path: Path) -> HFWriter:
    """Write a small checkpoint with the GPT2Config options given."""
    return lambda **options: write_hf(tmp_path / "hf", **options)


@pytest.fixture
def edit_tensors() -> TensorsEditor:
    """Change the tensors of a model.safetensors in place."""

    def edit(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
        tensors = load_file(path / "model.safetensors")
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        change(tensors)
        save_file(tensors, path / "model.safetensors", {"format": "pt"})

    return edit


@pytest.fixture
def edit_config() -> ConfigEditor:
    """Set fields of a config.json."""

    def edit(path: Path, **fields: Any) -> None:
        file = path / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))

    return edit
