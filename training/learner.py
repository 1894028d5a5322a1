"""Learner: a decoder and its optimiser, one step at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model.attention import CausalAttention
from model.config import GPTConfig
from model.decoder import GPT
from training.batches import Batch
from training.config import PretrainConfig
from training.loss import next_token_loss
from training.optimizer import Optimizer, initialise


class Learner:
    """Owns the parameters in float32 and the optimiser's state; the step that comes is counted."""

    def __init__(self, config: PretrainConfig, decoder: GPTConfig) -> None:
        self.device = torch.device(config.device)
        self.dtype: torch.dtype = getattr(torch, config.dtype)
        self.model = GPT(decoder, config.dropout)
        initialise(self.model, config.seed)
        self.model.to(self.device)
        self.optimizer = Optimizer(self.model, config.optimizer, config.weight_decay)
        self.num_steps_done = 0
        self._config = config

    def step(self, batch: Batch, learning_rate: float) -> float:
        """Learn from ``batch``; the mean loss over its tokens, in nats, before the update."""
        if self._config.dropout:
            torch.manual_seed((self._config.seed << 32) + self.num_steps_done)
        count = self._config.accumulation
        total = torch.zeros((), device=self.device)
        for part in batch.to(self.device).parts(count):
            loss = self._loss(part) / count
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        nn.utils.clip_grad_norm_(self.model.parameters(), self._config.grad_clip)
        self.optimizer.step(learning_rate)
        self.num_steps_done += 1
        return total.item()

    def _loss(self, batch: Batch) -> Tensor:
        hidden = hidden_states(self.model, batch, self.dtype, self._config.dropout)
        return next_token_loss(hidden, self.model.lm_head.weight, batch.targets, self.dtype)

    def load_parameters(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin with the parameters of a checkpoint; a tied head is not listed."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[name])

    def state_dict(self) -> dict[str, Any]:
        """Everything that the coming steps depend on."""
        return {
            "num_steps_done": self.num_steps_done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.num_steps_done = state["num_steps_done"]


def hidden_states(model: GPT, batch: Batch, dtype: torch.dtype, dropout: float = 0.0) -> Tensor:
    """Final hidden states (N, C) of a batch, with products in ``dtype``."""
    attend = CausalAttention(model.config, batch.window_len, dropout)
    autocast = (
        contextlib.nullcontext()
        if dtype == torch.float32
        else torch.autocast(batch.ids.device.type, dtype)
    )
    with autocast:
        hidden: Tensor = model(batch.ids, batch.positions, attend)
    return hidden
