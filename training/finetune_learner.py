"""FinetuneLearner: a network for a task and its optimiser, one step of L3 at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import GPTConfig
from model.tasks import TaskConfig
from training.finetune_config import FinetuneConfig
from training.loss import next_token_loss
from training.task_batches import TaskBatch
from training.task_network import TaskNetwork, last_hidden
from weights.task_description import SPECIAL

BETAS = (0.9, 0.999)
EMBEDDING = "wte.weight"


class FinetuneLearner:
    """Owns the parameters in float32 and the optimiser's state; the step that comes is counted."""

    def __init__(self, config: FinetuneConfig, task: TaskConfig, decoder: GPTConfig) -> None:
        self.device = torch.device(config.device)
        self.dtype: torch.dtype = getattr(torch, config.dtype)
        self.network = TaskNetwork(
            decoder, task, config.lora, config.dropout, config.seed, config.word_dropout
        )
        self.network.to(self.device)
        self.num_steps_done = 0
        self._config = config
        if config.train != "full":
            for parameter in self.network.trunk_tensors().values():
                parameter.requires_grad_(False)
        self.trained = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        self._optimizer = _optimizer(self.trained, config.weight_decay)

    def load_trunk(self, tensors: Mapping[str, Tensor], transfer_layers: int | None) -> None:
        """Begin with the decoder of a checkpoint, or with its lowest ``transfer_layers`` layers.

        The embeddings come in any case, the last norm only with all layers (GPT paper, figure 2).
        The new embeddings are stretched to the width of the others: where those are wide, narrow
        ones would be little beside the positions that are added to them.
        """
        num_layers = self.network.gpt.config.num_layers
        lowest = num_layers if transfer_layers is None else transfer_layers
        with torch.no_grad():
            for name, parameter in self.network.trunk_tensors().items():
                if _layer_of(name, num_layers) < lowest:
                    parameter.copy_(tensors[name])
            special = self.network.task_tensors()[SPECIAL]
            special.mul_(tensors[EMBEDDING].float().std() / special.std())

    def step(self, batch: TaskBatch, learning_rate: float) -> tuple[float, float | None]:
        """Learn from ``batch``; L2 and L1 before the update, in nats. No L1 where it is off."""
        torch.manual_seed((self._config.seed << 32) + self.num_steps_done)
        self.network.train()
        task_loss, lm_loss = self._losses(batch.to(self.device))
        whole = task_loss if lm_loss is None else task_loss + self._config.lm_coef * lm_loss
        whole.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.trained.values(), self._config.grad_clip)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.num_steps_done += 1
        return task_loss.item(), None if lm_loss is None else lm_loss.item()

    def _losses(self, batch: TaskBatch) -> tuple[Tensor, Tensor | None]:
        hidden = self.network.hidden(batch, self.dtype)  # (B, S, T, C)
        last = F.dropout(last_hidden(hidden, batch), self._config.dropout)
        task_loss = task_objective(self.network.config, self.network.head().joined(last), batch)
        if not self._config.lm_coef:
            return task_loss, None
        weight = self.network.gpt.lm_head.weight
        rows, targets = text_targets(batch, self.network.gpt.config.vocab_size)
        if not len(targets):
            return task_loss, hidden.new_zeros(())
        known = hidden.flatten(0, 2)[rows]  # (B, S, T, C) -> (N, C)
        return task_loss, next_token_loss(known, weight, targets, self.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the coming steps depend on."""
        return {
            "num_steps_done": self.num_steps_done,
            "trained": {name: p.detach().clone() for name, p in self.trained.items()},
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; what is not trained must be loaded before."""
        self.load_trained(state["trained"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.num_steps_done = state["num_steps_done"]

    def load_trained(self, tensors: Mapping[str, Tensor]) -> None:
        """Put other values in the parameters that are trained."""
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(tensors[name])


def task_objective(config: TaskConfig, outputs: Tensor, batch: TaskBatch) -> Tensor:
    """L2 (GPT paper, equation 4), or the squared error of a regression.

    ``outputs`` as TaskHead.joined gives them -> () float32.
    """
    if config.is_regression:
        return F.mse_loss(outputs.squeeze(-1), batch.targets)  # (B, 1) -> (B)
    return F.cross_entropy(outputs, batch.targets.long())


def text_targets(batch: TaskBatch, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Where L1 predicts, and what: every token of a text, from what stands before it.

    The new ids are no part of the vocabulary that is predicted. Rows along (B S T), and the ids
    that follow them, both (N) int64.
    """
    following = F.pad(batch.ids[..., 1:], (0, 1))  # (B, S, T)
    places = torch.arange(batch.ids.shape[-1], device=batch.ids.device)
    is_text = (places + 1 < batch.lengths[..., None]) & (following < vocab_size)
    rows = is_text.flatten().nonzero().squeeze(-1)
    return rows, following.flatten()[rows]


def _optimizer(trained: Mapping[str, nn.Parameter], weight_decay: float) -> torch.optim.Optimizer:
    """Adam with decoupled decay of everything but biases and gains (GPT paper, section 4.1)."""
    matrices = [parameter for parameter in trained.values() if parameter.dim() >= 2]
    plain = [parameter for parameter in trained.values() if parameter.dim() < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=BETAS, weight_decay=weight_decay, fused=True)


def _layer_of(name: str, num_layers: int) -> int:
    """The layer that a parameter belongs to; the last norm is of the last."""
    if name.startswith("h."):
        return int(name.split(".")[1])
    return num_layers - 1 if name.startswith("ln_f.") else -1
