"""A network that has been told what it thinks of each token, and a tokenizer of characters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from model.tokenizer import Tokenizer
from training.evaluation.likelihood import Item
from training.evaluation.session import Session


@dataclass(frozen=True)
class Told:
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class FakeScorer:
    """``think`` says of a token, given the ids before it, its score."""

    think: Callable[[tuple[int, ...], int], Told]
    context_len: int = 1_000
    asked: list[Item] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    """How many items came with each call."""

    def score(self, items: Sequence[Item], num_top: int) -> list[list[Told]]:
        self.asked += items
        self.groups.append(len(items))
        return [
            [self.think(item.ids[:i], item.ids[i]) for i in range(item.scored_from, len(item.ids))]
            for item in items
        ]


class Characters:
    """A token a character: its code point."""

    def encode(self, text: str) -> list[int]:
        return list(map(ord, text))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return "".join(map(chr, ids)).encode()


def fake_session(
    think: Callable[[tuple[int, ...], int], Told], start_id: int | None = 0, **changes: Any
) -> Session:
    tokenizer = cast("Tokenizer", Characters())
    session = Session(FakeScorer(think), tokenizer, start_id, window_len=8, stride=4)
    return replace(session, **changes)
