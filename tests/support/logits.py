"""The logits of a checkpoint as read, by our decoder with attention by the textbook."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import GPTConfig
from model.decoder import GPT
from weights.checkpoint import Checkpoint


class PlainAttend:
    """Attention over the one sequence given."""

    def __init__(self, config: GPTConfig) -> None:
        self.config = config

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (
            t.view(len(t), self.config.num_heads, -1).transpose(0, 1) for t in (query, key, value)
        )  # (N, C) -> (H, N, D)
        scale = self.config.head_len**-0.5 if self.config.is_attention_scaled else 1.0
        if self.config.is_attention_layer_scaled:
            scale /= layer + 1
        scores = q @ k.transpose(1, 2) * scale  # (H, N, N)
        hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
        out = F.softmax(scores.masked_fill(hidden, -torch.inf), -1) @ v  # (H, N, D)
        return out.transpose(0, 1).reshape(query.shape)


def logits_of(checkpoint: Checkpoint, ids: Tensor) -> Tensor:
    """Logits (N, V) after each of ``ids`` (N), which are one sequence."""
    model = GPT.on_meta(checkpoint.config)
    model.load_state_dict(dict(checkpoint.tensors), strict=False, assign=True)
    if checkpoint.config.is_head_tied:
        model.lm_head.weight = model.wte.weight
    with torch.no_grad():
        hidden = model(ids, torch.arange(len(ids)), PlainAttend(checkpoint.config))
        return model.logits(hidden)


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Equal up to 1e-5 of the largest logit."""
    largest = float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=1e-5 * largest, rtol=0)
