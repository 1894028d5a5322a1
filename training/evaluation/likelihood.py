"""The seam to whatever runs the network: token ids in, log probabilities out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tqdm import tqdm

GROUP_TOKENS = 8_192
"""Tokens that are scored by one call: enough to fill every step, and the bar still moves."""


class TokenScore(Protocol):
    """The natural log probability of one token, and the likeliest (id, log probability) there."""

    @property
    def logprob(self) -> float:
        """Given all tokens before it."""
        ...

    @property
    def top(self) -> Sequence[tuple[int, float]]:
        """Likeliest first; as many as were asked for."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """A sequence of which the tokens from index ``scored_from``, at least 1, are asked about."""

    ids: tuple[int, ...]
    scored_from: int

    @property
    def num_scored(self) -> int:
        """Tokens that are asked about."""
        return len(self.ids) - self.scored_from


class Scorer(Protocol):
    """A network with its weights."""

    @property
    def context_len(self) -> int:
        """The most tokens that one prediction can look back on; an item may have one more."""
        ...

    def score(self, items: Sequence[Item], num_top: int) -> Sequence[Sequence[TokenScore]]:
        """For each item, the scores of its ``num_scored`` last tokens.

        Each with the ``num_top`` likeliest tokens, at most 20.
        """
        ...


def scores(
    scorer: Scorer, items: Sequence[Item], name: str, num_top: int = 0
) -> Iterator[Sequence[TokenScore]]:
    """The scores of each item, in order, and a progress bar called ``name`` where somebody looks.

    Items that begin alike are cheaper when they follow each other.
    """
    total = sum(len(item.ids) for item in items)
    with tqdm(
        total=total, desc=name, unit="token", unit_scale=True, leave=False, disable=None
    ) as bar:
        for group in _groups(items):
            yield from scorer.score(group, num_top)
            bar.update(sum(len(item.ids) for item in group))


def _groups(items: Sequence[Item]) -> Iterator[list[Item]]:
    group: list[Item] = []
    num_tokens = 0
    for item in items:
        if group and num_tokens + len(item.ids) > GROUP_TOKENS:
            yield group
            group, num_tokens = [], 0
        group.append(item)
        num_tokens += len(item.ids)
    if group:
        yield group
