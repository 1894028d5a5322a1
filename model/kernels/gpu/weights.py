"""A decoder's weights as the kernels read them, on one device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model.attention import score_scale
from model.config import GPTConfig
from model.kernels.gpu.buffers import Linear, Norm


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer, by the names of the checkpoint; ``scale`` is what scores are multiplied with."""

    ln_1: Norm
    c_attn: Linear
    attn_proj: Linear
    ln_2: Norm
    c_fc: Linear
    mlp_proj: Linear
    scale: float


@dataclass(frozen=True, slots=True)
class Weights:
    """Matrices (M, K) and embeddings in one dtype; norms and biases in float32."""

    wte: Tensor
    wpe: Tensor
    layers: tuple[LayerWeights, ...]
    ln_f: Norm
    lm_head: Tensor

    @classmethod
    def from_tensors(
        cls,
        config: GPTConfig,
        tensors: Mapping[str, Tensor],
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> Weights:
        """From a checkpoint's tensors by name; a tied head need not be among them."""

        def matrix(name: str) -> Tensor:
            return tensors[name].detach().to(device, dtype).contiguous()

        def vector(name: str) -> Tensor:
            return tensors[name].detach().to(device, torch.float32).contiguous()

        def linear(name: str) -> Linear:
            bias = vector(name + ".bias")
            return Linear(matrix(name + ".weight"), bias, bias.to(dtype))

        def norm(name: str) -> Norm:
            return Norm(vector(name + ".weight"), vector(name + ".bias"), config.norm_epsilon)

        def layer(index: int) -> LayerWeights:
            name = f"h.{index}."
            return LayerWeights(
                ln_1=norm(name + "ln_1"),
                c_attn=linear(name + "attn.c_attn"),
                attn_proj=linear(name + "attn.c_proj"),
                ln_2=norm(name + "ln_2"),
                c_fc=linear(name + "mlp.c_fc"),
                mlp_proj=linear(name + "mlp.c_proj"),
                scale=score_scale(config, index),
            )

        wte = matrix("wte.weight")
        return cls(
            wte=wte,
            wpe=matrix("wpe.weight"),
            layers=tuple(layer(index) for index in range(config.num_layers)),
            ln_f=norm("ln_f"),
            lm_head=wte if config.is_head_tied else matrix("lm_head.weight"),
        )
