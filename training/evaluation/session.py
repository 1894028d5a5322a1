"""What every measurement needs, and what it comes to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from model.tokenizer import Tokenizer
from training.evaluation.likelihood import Scorer

PROTOCOLS = ("plain", "paper")
"""``plain`` takes a text as it lies, ``paper`` as the GPT-2 paper did: docs/evaluation.md."""


@dataclass(frozen=True, slots=True)
class Session:
    """A network, and how it is measured.

    ``start_id`` stands before a text, so that its first token can be scored; without one that
    token is not. A text is read in windows of ``window_len`` predictions, under ``plain``
    ``stride`` apart. ``limit`` is the most windows of a text, or examples, or None for all.
    """

    scorer: Scorer
    tokenizer: Tokenizer
    start_id: int | None
    window_len: int
    stride: int
    limit: int | None = None
    protocols: tuple[str, ...] = PROTOCOLS


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure. ``published_as`` is the column of the GPT-2 paper's table that is this.

    People see ``num_decimals`` of it.
    """

    name: str
    value: float
    published_as: str | None = None
    num_decimals: int = 2


@dataclass(frozen=True, slots=True)
class Result:
    """What one protocol found on one text or set of examples; ``counts`` says of how much."""

    on: str
    protocol: str
    measures: tuple[Measure, ...]
    counts: Mapping[str, int]


class Subject(Protocol):
    """Something that a network is measured on, read and checked already."""

    def results(self, session: Session) -> Iterator[Result]:
        """One for each protocol that applies. Raises TrainingError for what does not fit."""
        ...


def perplexity(nats: float, count: float) -> float:
    """exp(nats / count); infinite where a float holds it no more."""
    mean = nats / count
    return math.exp(mean) if mean < math.log(float(2**1023)) else math.inf
