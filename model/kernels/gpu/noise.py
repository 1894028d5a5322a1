"""The noise behind every draw on a GPU, in torch: the same bits on every path and in every batch.

A token is drawn as the argmax of logit / temperature + Gumbel noise, which follows the softmax
exactly (Gumbel 1954; Yellott 1977). The noise of one token is a pure function of (seed, choice
index, token index, token id) by Philox4x32-10, so a draw replays whatever else runs, and every
tile of the vocabulary makes its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

GUMBEL_STREAM = 1
"""Last word of the counter; model.philox.uniform has 0 there, so the two never meet."""

UNIT = 2.0**-32
LARGEST_UNIFORM = 1 - 2.0**-24
"""Below 1 in float32, so that the noise is finite."""

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


def gumbel_noise(
    seeds: Tensor, choice_indices: Tensor, token_indices: Tensor, vocab_size: int
) -> Tensor:
    """Gumbel noise (B, V), float32, for rows given by three (B) tensors.

    ``seeds`` are int64 that hold the 64 bits of each seed. With u = (x + 0.5) / 2^32 for the first
    Philox word x, the noise is -log(-log1p(-u)): large noise comes from small u, where float32
    has its resolution.
    """
    ids = torch.arange(vocab_size, device=seeds.device).unsqueeze(0)  # (1, V)
    indices, choices = (x.long().unsqueeze(1) for x in (token_indices, choice_indices))  # (B, 1)
    keys = (seeds.unsqueeze(1) & _MASK, (seeds.unsqueeze(1) >> 32) & _MASK)
    x = _first_word(keys, (indices, choices, ids, torch.full_like(ids, GUMBEL_STREAM)))  # (B, V)
    u = ((x.float() + 0.5) * UNIT).clamp(max=LARGEST_UNIFORM)
    return -torch.log(-torch.log1p(-u))


def _first_word(
    keys: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor, Tensor, Tensor]
) -> Tensor:
    """Word 0 of model.philox.philox4x32, on int64 tensors.

    A product of two 32-bit words wraps around in int64, and its bits are still the right ones.
    """
    (k0, k1), (c0, c1, c2, c3) = keys, counter
    for _ in range(_ROUNDS):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            ((product1 >> 32) & _MASK) ^ c1 ^ k0,
            product1 & _MASK,
            ((product0 >> 32) & _MASK) ^ c3 ^ k1,
            product0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0
