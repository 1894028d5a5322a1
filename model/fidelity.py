"""What a change of precision costs a model, measured on text of its own.

Tokens are drawn from the reference itself, so the mean of KL(reference || candidate) over them
is what the log-loss of its own text rises by: its expectation is exactly that. No text and no
vocabulary are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.attention import Span
from model.config import GPTConfig
from model.network import Network

NUM_SEQUENCES = 4
MAX_TOKENS = 48
"""Of each sequence: some 200 distributions, compared whole, settle the mean to a tenth."""

MAX_RISE = 0.01
"""Of the log-loss: more than this and ``auto`` keeps the wider dtype."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """``log_loss`` of the reference on its own text, and its ``rise``; nats a token."""

    log_loss: float
    rise: float

    @property
    def is_kept(self) -> bool:
        """Whether the rise is small enough for nobody to notice."""
        return self.share <= MAX_RISE

    @property
    def share(self) -> float:
        """The rise as a share of the log-loss."""
        return self.rise / max(self.log_loss, 1e-9)


def kl_per_token(reference_logits: Tensor, logits: Tensor) -> float:
    """Mean KL(reference || candidate) of rows (N, V), in nats."""
    expected, got = reference_logits.double().log_softmax(-1), logits.double().log_softmax(-1)
    return float((expected.exp() * (expected - got)).nan_to_num(0.0).sum(-1).mean())


def entropy_per_token(logits: Tensor) -> float:
    """Mean entropy of rows (N, V), in nats: the log-loss of what is drawn from them."""
    line = logits.double().log_softmax(-1)
    return -float((line.exp() * line).nan_to_num(0.0).sum(-1).mean())


def first_id(config: GPTConfig) -> int:
    """What text of the model's own begins with: its end-of-text token, if it has one."""
    return config.eos_token_ids[0] if config.eos_token_ids else 0


@torch.inference_mode()
def measure(
    reference: Network,
    candidate: Network,
    start_id: int,
    num_tokens: int = MAX_TOKENS,
    num_sequences: int = NUM_SEQUENCES,
) -> Fidelity:
    """Draw ``num_tokens`` for each sequence from ``reference``, and score them with both.

    Every sequence begins with ``start_id``. Both networks have ``num_sequences`` slots of
    ``num_tokens`` positions, and lose what these held.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.full((num_sequences, 1), start_id)
    lines = []
    for position in range(num_tokens):
        spans = [Span(slot, position, 1) for slot in range(num_sequences)]
        line = _logits(reference, ids[:, position].tolist(), spans)  # (B, V)
        lines.append(line)
        drawn = torch.multinomial(line.softmax(-1), 1, generator=generator)  # (B, 1)
        ids = torch.cat((ids, drawn), 1)
    rises, losses = [], []
    for slot in range(num_sequences):  # one at a time: logits are wide
        expected = torch.stack([line[slot] for line in lines])  # (T, V)
        got = _logits(candidate, ids[slot, :num_tokens].tolist(), [Span(slot, 0, num_tokens)])
        rises.append(kl_per_token(expected, got))
        losses.append(entropy_per_token(expected))
    return Fidelity(sum(losses) / num_sequences, sum(rises) / num_sequences)


def _logits(network: Network, ids: list[int], spans: Sequence[Span]) -> Tensor:
    return network.logits(network.hidden(ids, spans, range(len(ids))))
