"""A long text in windows that a network can read, each token scored once."""

from __future__ import annotations

from collections.abc import Sequence

from training.evaluation.likelihood import Item


def windows(
    ids: Sequence[int], window_len: int, stride: int, limit: int | None = None
) -> list[Item]:
    """The first ``limit`` windows of ``window_len`` predictions, ``stride`` tokens apart.

    All tokens but the first are scored, each in the first window that reaches it, with at least
    ``window_len - stride + 1`` tokens before it once a window is full. A window has one token more
    than predictions: of the last it only says how likely it was. Where ``stride`` is
    ``window_len``, windows share nothing but that token.
    """
    found: list[Item] = []
    scored_to = 1
    for begin in range(0, len(ids) - 1, stride):
        if scored_to == len(ids) or len(found) == limit:
            break
        end = min(begin + window_len + 1, len(ids))
        found.append(Item(tuple(ids[begin:end]), scored_to - begin))
        scored_to = end
    return found
