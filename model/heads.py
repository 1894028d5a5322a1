"""Task heads: final hidden states at the extract tokens to logits (GPT paper, section 3.2).

A head is linear, so what it makes of two joined vectors is what it makes of each, added up:
W (a + b) = W a + W b, and [U V] [a; b] = U a + V b. Each sequence of an input therefore has logits
of its own, computed wherever and whenever it runs, and ``model.tasks.outcome`` adds them. The bias
is shared out in halves: a sum of two shares is the same number in either order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.tasks import TaskConfig


def head_shape(config: TaskConfig, num_channels: int) -> tuple[int, int]:
    """The shape of a task head's weight: (num_outputs, C), or (num_outputs, 2C) to concatenate."""
    width = 2 if config.join == "concatenate" else 1
    return config.num_outputs, width * num_channels


@dataclass(frozen=True, slots=True)
class TaskHead:
    """``weight`` as head_shape says, ``bias`` (num_outputs), both float32."""

    config: TaskConfig
    weight: Tensor
    bias: Tensor

    def logits(self, hidden: Tensor, orders: Sequence[int]) -> Tensor:
        """The share of each sequence: hidden (B, C) -> (B, num_outputs), float32.

        ``orders`` says for each row which of its input's sequences it is, counted from 0. A row is
        computed by itself, in torch's own sum: its bits depend neither on the other rows nor
        on where in memory it lies.
        """
        shares = map(self._share, orders)
        rows = [
            (weight * row).sum(-1) + bias
            for row, (weight, bias) in zip(hidden.float(), shares, strict=True)
        ]
        return torch.stack(rows) if rows else self.bias.new_zeros(0, len(self.bias))

    def _share(self, order: int) -> tuple[Tensor, Tensor]:
        """What one sequence is multiplied with, and its part of the bias."""
        if self.config.join is None:
            return self.weight, self.bias
        weight = self.weight
        if self.config.join == "concatenate":
            weight = weight.chunk(2, dim=1)[order]  # (num_outputs, 2C) -> (num_outputs, C)
        return weight, self.bias / 2

    def joined(self, hidden: Tensor) -> Tensor:
        """The same for training, all sequences of an input at once, differentiable.

        hidden (B, S, C), the S sequences of B inputs -> (B, num_outputs); of a multiple choice
        (B, S), one score for each choice.
        """
        if self.config.form == "multiple_choice":
            return F.linear(hidden, self.weight, self.bias).squeeze(-1)  # (B, S, 1) -> (B, S)
        joined = hidden.flatten(1) if self.config.join == "concatenate" else hidden.sum(1)
        return F.linear(joined, self.weight, self.bias)
