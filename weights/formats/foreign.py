"""ForeignCheckpoint: what every reader of another layout makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from model.config import GPTConfig


@dataclass(frozen=True)
class ForeignCheckpoint:
    """A checkpoint of another layout, in our names and shapes (matrices (out, in))."""

    format: str
    """The layout's name, as source.json keeps it."""
    config: GPTConfig
    tensors: Mapping[str, torch.Tensor]
    """``GPT.named_parameters()`` names -> tensors of float32, bfloat16 or float16."""
    directory: Path
    """Where ``weight_files`` lie, and the vocabulary if there is one."""
    weight_files: tuple[str, ...]
    """The files that the tensors came from."""
    config_files: tuple[str, ...] = ()
    """Further files there that were read, if ``directory`` is not all this checkpoint's own."""
    changes: tuple[str, ...] = ()
    """What was done to the tensors beyond renaming and transposing, a sentence each."""


@dataclass(frozen=True)
class Hints:
    """What is known beside the checkpoint, for layouts that do not say it themselves."""

    num_heads: int | None = None
    vocab_size: int | None = None
    """The highest id of the vocabulary, and one."""
    eos_token_id: int | None = None
    """The vocabulary's end of text."""


NO_HINTS = Hints()
