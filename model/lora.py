"""LoRA: a matrix W becomes W + alpha / rank * B A (Hu et al. 2021, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.config import ConfigError, GPTConfig
from model.decoder import parameter_shapes

LAYER_TARGETS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
"""The matrices of a layer that can be adapted."""

EMBEDDING_TARGET = "wte"
"""The embeddings: B has a row for each token, A is shared by all of them."""

LORA_TARGETS = (*LAYER_TARGETS, EMBEDDING_TARGET)

LORA_A = "lora_a"
LORA_B = "lora_b"


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """``targets`` are those of LORA_TARGETS that are adapted; matrices are in every layer.

    Raises ConfigError naming every impossible value.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] = LORA_TARGETS

    def __post_init__(self) -> None:
        problems = [f"lora {problem}" for problem in self._problems()]
        if problems:
            raise ConfigError(problems)

    def _problems(self) -> Iterator[str]:
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or self.rank < 1:
            yield f"rank must be a whole number of at least 1, got {self.rank!r}"
        if type(self.alpha) not in {int, float} or not 0 < self.alpha < math.inf:
            yield f"alpha must be a number above 0, got {self.alpha!r}"
        is_known = all(target in LORA_TARGETS for target in self.targets)
        is_repeated = any(self.targets.count(target) > 1 for target in self.targets)
        if not self.targets or not is_known or is_repeated:
            yield f"targets must be some of {', '.join(LORA_TARGETS)}, got {self.targets!r}"

    @property
    def scale(self) -> float:
        """What B A is multiplied with."""
        return self.alpha / self.rank

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as written to task.json."""
        return {"rank": self.rank, "alpha": self.alpha, "targets": [*self.targets]}

    @classmethod
    def from_dict(cls, values: Any) -> LoraConfig:
        """The inverse of :meth:`to_dict`. Raises ConfigError for anything else."""
        if not isinstance(values, dict) or values.keys() != {"rank", "alpha", "targets"}:
            raise ConfigError(["lora must be an object of rank, alpha and targets"])
        if not isinstance(values["targets"], list):
            raise ConfigError([f"lora targets must be a list, got {values['targets']!r}"])
        return cls(values["rank"], values["alpha"], tuple(values["targets"]))


def adapter_shapes(config: GPTConfig, lora: LoraConfig) -> dict[str, tuple[int, int]]:
    """Name -> shape of both thin matrices of each adapted one.

    ``h.{i}.{target}.lora_a`` is A (r, K), ``h.{i}.{target}.lora_b`` is B (M, r); of the embeddings
    ``wte.lora_a`` (r, C) and ``wte.lora_b`` (V, r).
    """
    whole = parameter_shapes(config)
    names = [EMBEDDING_TARGET] if EMBEDDING_TARGET in lora.targets else []
    names += [
        f"h.{index}.{target}"
        for index in range(config.num_layers)
        for target in lora.targets
        if target != EMBEDDING_TARGET
    ]
    shapes = {}
    for name in names:
        num_outputs, num_inputs = whole[f"{name}.weight"]
        shapes[f"{name}.{LORA_A}"] = (lora.rank, num_inputs)
        shapes[f"{name}.{LORA_B}"] = (num_outputs, lora.rank)
    return shapes


@dataclass(frozen=True, slots=True)
class Thin:
    """The two thin matrices beside one matrix W (M, K): W x becomes W x + B (A x + offset).

    ``a`` is A (r, K) and ``b`` alpha / rank * B (M, r), both float32. ``offset`` (r) is zero until
    a part of x is taken out of x (model/equalise.py). Beside the embeddings (V, C) ``a`` is (r, C)
    and ``b`` (V, r): a row of B times A is added to a row of W.
    """

    a: Tensor
    b: Tensor
    offset: Tensor

    @property
    def rank(self) -> int:
        """r."""
        return len(self.a)


Adapter = Mapping[str, Thin]
"""All of one task, by the names of the matrices without ``.weight``: h.0.attn.c_attn, wte."""


def adapter_of(tensors: Mapping[str, Tensor], scale: float) -> Adapter:
    """What a task's thin matrices (adapter_shapes) are when they are served."""
    return {
        name: Thin(
            lora_a.detach().float(),
            tensors[f"{name}.{LORA_B}"].detach().float() * scale,
            torch.zeros(len(lora_a)),
        )
        for name, lora_a in ((key.removesuffix(f".{LORA_A}"), t) for key, t in tensors.items())
        if f"{name}.{LORA_B}" in tensors
    }
