"""What quantisation costs a model, measured on text of its own while it loads.

Tokens are drawn from the reference itself, so the mean of KL(reference || candidate) over them is
what the log-loss of its own text rises by (its expectation is exactly that). No text and no
vocabulary are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.attention import Span
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


@torch.inference_mode()
def measure(reference: Network, candidate: Network, first_id: int, num_tokens: int) -> Fidelity:
    """Sample from ``reference`` after ``first_id``, and score the samples with both.

    Both networks have NUM_SEQUENCES slots of ``num_tokens`` positions, and lose what these held.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.full((NUM_SEQUENCES, 1), first_id)
    references = []
    for position in range(num_tokens):
        spans = [Span(slot, position, 1) for slot in range(NUM_SEQUENCES)]
        rows = list(range(NUM_SEQUENCES))
        line = _log_softmax(reference, ids[:, position].tolist(), spans, rows)  # (B, V)
        references.append(line)
        drawn = torch.multinomial(line.exp(), 1, generator=generator)  # (B, 1)
        ids = torch.cat((ids, drawn), 1)
    expected = torch.stack(references, 1).flatten(0, 1)  # (B * T, V)
    spans = [Span(slot, 0, num_tokens) for slot in range(NUM_SEQUENCES)]
    every = list(range(NUM_SEQUENCES * num_tokens))
    got = _log_softmax(candidate, ids[:, :num_tokens].flatten().tolist(), spans, every)
    weights = expected.exp()
    log_loss = -(weights * expected.clamp(min=-1e4)).sum(-1).mean()
    rise = (weights * (expected - got).nan_to_num(0.0)).sum(-1).mean()
    return Fidelity(float(log_loss), float(rise))


def _log_softmax(network: Network, ids: list[int], spans: list[Span], wanted: list[int]) -> Tensor:
    hidden = network.hidden(ids, spans, wanted)
    return network.logits(hidden).log_softmax(-1)
