"""The two optimisers that a decoder is trained with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from model.decoder import GPT

OptimizerName = Literal["adamw", "muon"]

OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)

BETAS = (0.9, 0.95)


class Optimizer:
    """AdamW for everything, or Muon for the layers' matrices and AdamW for the rest.

    Muon (Jordan et al. 2024) takes fewer tokens to the same loss; its update is scaled to the size
    of AdamW's, so that one learning rate serves both. Matrices and embeddings decay, gains and
    biases do not.
    """

    def __init__(self, model: GPT, name: OptimizerName, weight_decay: float) -> None:
        hidden, wide, plain = _groups(model)
        adamw: list[dict[str, Any]] = [{"params": plain, "weight_decay": 0.0}, {"params": wide}]
        parts: list[torch.optim.Optimizer] = []
        if name == "muon":
            parts.append(
                torch.optim.Muon(hidden, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            )
        else:
            adamw.append({"params": hidden})
        parts.append(torch.optim.AdamW(adamw, betas=BETAS, weight_decay=weight_decay, fused=True))
        self._parts = parts

    def step(self, learning_rate: float) -> None:
        """Move the parameters by their gradients, and drop the gradients."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = learning_rate
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """What :meth:`load_state_dict` needs to go on bit for bit."""
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, state: Iterable[dict[str, Any]]) -> None:
        """The inverse of :meth:`state_dict`."""
        for part, values in zip(self._parts, state, strict=True):
            part.load_state_dict(values)


def _groups(model: GPT) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The layers' matrices, the other matrices (embeddings, untied head), gains and biases."""
    hidden: list[Tensor] = []
    wide: list[Tensor] = []
    plain: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            plain.append(parameter)
        else:
            (hidden if name.startswith("h.") else wide).append(parameter)
    return hidden, wide, plain


def initialise(model: GPT, seed: int) -> None:
    """GPT-2's start (GPT-2 paper, section 2.3): normal, 0.02; residual projections narrower."""
    generator = torch.Generator().manual_seed(seed)
    residual_std = 0.02 / (2 * model.config.num_layers) ** 0.5
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            nn.init.constant_(parameter, 1.0 if "ln_" in name and "weight" in name else 0.0)
        else:
            std = residual_std if name.endswith("c_proj.weight") else 0.02
            nn.init.normal_(parameter, std=std, generator=generator)
