"""The network that is measured: random weights of a named size, or a checkpoint, in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from model.config import PRESETS, GPTConfig
from model.decoder import parameter_shapes
from weights.checkpoint import CheckpointError, open_checkpoint, save_checkpoint

TINY = GPTConfig(
    vocab_size=97, num_positions=64, num_channels=32, num_layers=2, num_heads=2, num_inner=128
)
SIZES: Mapping[str, GPTConfig] = MappingProxyType({"tiny": TINY, **PRESETS})

BITS: Mapping[str, float] = MappingProxyType(
    {"float32": 32, "bfloat16": 16, "int8": 8, "int4": 4.5}
)
"""Bits that the floor counts for a weight; int4 with a 16-bit scale for every 32 weights."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is measured. ``folder`` is a float32 checkpoint in our own format."""

    name: str
    config: GPTConfig
    folder: Path

    def weight_bytes(self, dtype: str) -> float:
        """Bytes of weights that one token needs: all but the table of positions."""
        table = self.config.num_positions * self.config.num_channels
        return (self.config.num_parameters - table) * BITS[dtype] / 8

    def stored_bytes(self, dtype: str) -> float:
        """Bytes of all weights."""
        return self.config.num_parameters * BITS[dtype] / 8


def prepared_shape(size: str, checkpoint: Path | None, scratch: Path) -> Shape:
    """The folder that every system reads. Raises CheckpointError."""
    return _write_random(size, scratch) if checkpoint is None else _write_copy(checkpoint, scratch)


def random_tensors(config: GPTConfig) -> dict[str, torch.Tensor]:
    """Random weights of the true shapes, gains and biases too; never zeros.

    Matrices keep the size of what they multiply, so that layers outweigh the embedding: else a
    tied head answers with the token that it was given.
    """
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in parameter_shapes(config).items():
        is_matrix = ".c_" in name and name.endswith("weight")
        scale = shape[-1] ** -0.5 if is_matrix else 0.02
        tensor = torch.randn(shape, generator=generator) * scale
        tensors[name] = tensor + 1 if "ln_" in name and name.endswith("weight") else tensor
    return tensors


def _write_random(size: str, scratch: Path) -> Shape:
    """Random weights of a preset's size, or ``tiny``."""
    config = SIZES[size]
    saved = save_checkpoint(
        scratch / "checkpoint", config, random_tensors(config), None, {"origin": f"random {size}"}
    )
    return Shape(f"{size}, random weights", config, saved.path)


def _write_copy(checkpoint: Path, scratch: Path) -> Shape:
    """A checkpoint's weights in float32, which every system reads. Raises CheckpointError."""
    opened = open_checkpoint(checkpoint)
    tensors = {name: tensor.float() for name, tensor in opened.tensors.items()}
    if missing := parameter_shapes(opened.config).keys() - tensors.keys():
        raise CheckpointError(
            [f"{checkpoint} is quantised ({len(missing)} matrices): give one that is not"]
        )
    origin = {"origin": str(checkpoint)}
    saved = save_checkpoint(scratch / "checkpoint", opened.config, tensors, None, origin)
    return Shape(str(checkpoint), opened.config, saved.path)
