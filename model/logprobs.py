"""Log probabilities of tokens, from float32 logits: of drawn ones and of those of a prompt.

Every sum over the vocabulary is taken in an order that does not depend on how many rows there
are, so a row's result is the same alone and in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_LEN = 256
"""Vocabulary entries summed at once. A sum over a whole row would be split among threads in a
way that depends on the number of rows."""


@dataclass(frozen=True, slots=True)
class Logprob:
    """A token's natural log probability; ``top`` holds the likeliest (id, log probability)."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def unnormalised(logits: Tensor) -> Tensor:
    """exp(logit - the row's largest), padded by zeros to whole blocks. (B, V) -> (B, V')."""
    values = (logits - logits.amax(-1, keepdim=True)).exp_()
    return F.pad(values, (0, -values.shape[-1] % BLOCK_LEN))


def block_sums(values: Tensor) -> Tensor:
    """(B, V') -> (B, V' / BLOCK_LEN), float64."""
    return values.view(values.shape[0], -1, BLOCK_LEN).sum(-1).double()


def likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest logits of each row and their ids, equal ones by id. Both (B, K).

    Where the last place is tied, any of the tied may have it.
    """
    ids = logits.topk(count, sorted=False).indices.sort(-1).values
    values, order = torch.sort(logits.gather(1, ids), descending=True, stable=True)
    return values, ids.gather(1, order)


def logprobs(logits: Tensor, token_ids: Sequence[int], num_top: int) -> list[Logprob]:
    """Of one token a row, and of the ``num_top`` likeliest. logits (B, V), float32.

    Ties go to the lower id.
    """
    norms = logits.amax(-1).double() + block_sums(unnormalised(logits)).sum(-1).log()  # (B)
    chosen = logits.gather(1, torch.tensor(token_ids).unsqueeze(1))[:, 0]  # (B)
    values = (chosen.double() - norms).tolist()
    tops = _tops(logits, norms, min(num_top, logits.shape[-1]))
    return [Logprob(value, top) for value, top in zip(values, tops, strict=True)]


def _tops(logits: Tensor, norms: Tensor, count: int) -> list[tuple[tuple[int, float], ...]]:
    if count == 0:
        return [()] * len(logits)
    values, ids = likeliest(logits, count)
    is_cut_in_tie = (logits >= values[:, -1:]).sum(-1) > count  # (B)
    for i in is_cut_in_tie.nonzero()[:, 0].tolist():  # seldom: topk takes any of the tied
        line_values, line_ids = torch.sort(logits[i], descending=True, stable=True)
        values[i], ids[i] = line_values[:count], line_ids[:count]
    lines = (values.double() - norms.unsqueeze(1)).tolist()
    return [
        tuple(zip(row, line, strict=True)) for row, line in zip(ids.tolist(), lines, strict=True)
    ]
