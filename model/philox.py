"""Philox4x32-10, the counter-based generator behind every seeded draw.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011),
section 4.3. A draw is a pure function of its key and counter: nothing is stepped, so draws
replay whatever else runs.
"""

from __future__ import annotations

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF

Words4 = tuple[int, int, int, int]


def philox4x32(key: tuple[int, int], counter: Words4) -> Words4:
    """Ten rounds over four 32-bit words."""
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & _MASK,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def uniform(seed: int, choice_index: int, token_index: int) -> float:
    """A number between 0 and 1, never either, for one draw. ``seed`` is below 2^64."""
    key = (seed & _MASK, (seed >> 32) & _MASK)
    word = philox4x32(key, (token_index & _MASK, choice_index & _MASK, 0, 0))[0]
    return (word + 0.5) / 2**32
