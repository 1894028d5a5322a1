"""A checkpoint as numpy arrays, for peers that need no torch. Refuses what peers do not have."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.adapters import Unavailable
from model.config import GPTConfig

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Arrays:
    """``tensors`` under our names, float32, matrices (out, in). A tied head is not among them."""

    config: GPTConfig
    tensors: dict[str, Array]

    @property
    def head(self) -> Array:
        """(V, C)."""
        return self.tensors.get("lm_head.weight", self.tensors["wte.weight"])


def unusual(config: GPTConfig) -> list[str]:
    """What of this checkpoint the peers' GPT-2 does not know."""
    found = []
    if config.activation != "gelu_tanh":
        found.append(f"activation {config.activation}")
    if not config.is_attention_scaled or config.is_attention_layer_scaled:
        found.append("attention that is scaled in another way")
    if config.is_post_norm:
        found.append("norms after its sub-layers")
    return found


def read_arrays(folder: Path) -> Arrays:
    """Read our own float32 directory. Raises Unavailable for a network that peers do not have."""
    from safetensors.numpy import load_file

    values: dict[str, Any] = json.loads((folder / "config.json").read_text())
    config = GPTConfig.from_dict(values["config"])
    if found := unusual(config):
        raise Unavailable(f"no GPT-2 with {' and '.join(found)}")
    return Arrays(config, dict(load_file(folder / "model.safetensors")))
