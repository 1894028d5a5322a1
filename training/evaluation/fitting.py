"""Sequences that are longer than the context lose their beginning."""

from __future__ import annotations

from collections.abc import Sequence

from model.tokenizer import Tokenizer
from training.errors import TrainingError
from training.evaluation.likelihood import Item


def fitted(
    sequences: Sequence[Sequence[int]], scored_from: int, most: int, name: str
) -> list[Item]:
    """All of them without their first tokens, as many of each as the longest has beyond ``most``.

    Raises TrainingError, with ``name``, where nothing would be left before ``scored_from``.
    """
    excess = max(0, max(map(len, sequences)) - most)
    if scored_from - excess < 1:
        num_scored = max(map(len, sequences)) - scored_from
        raise TrainingError(
            [f"{name} must have at most {most - 1} tokens that are scored, got {num_scored}"]
        )
    return [Item(tuple(ids[excess:]), scored_from - excess) for ids in sequences]


def num_tokens_within(tokenizer: Tokenizer, ids: Sequence[int], num_bytes: int) -> int:
    """How many tokens end within the first ``num_bytes`` of what ``ids`` stand for."""
    end = 0
    for index, token_id in enumerate(ids):
        end += len(tokenizer.token_bytes(token_id))
        if end > num_bytes:
            return index
    return len(ids)
