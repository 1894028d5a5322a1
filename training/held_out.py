"""Bits per byte on texts that were not trained on: comparable between vocabularies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.decoder import GPT
from model.tokenizer import Tokenizer
from training.batches import Batch
from training.documents import Document
from training.learner import hidden_states
from training.loss import next_token_loss


@dataclass(frozen=True, slots=True)
class Score:
    """How well one text was predicted: ``nats`` of surprise over tokens that are bytes."""

    name: str
    nats: float
    num_tokens: int
    num_bytes: int

    @property
    def bits_per_byte(self) -> float:
        """Bits of surprise per byte of UTF-8."""
        return self.nats / math.log(2) / self.num_bytes

    @classmethod
    def total(cls, scores: Sequence[Score]) -> Score:
        """All texts as one."""
        columns = ((s.nats, s.num_tokens, s.num_bytes) for s in scores)
        nats, num_tokens, num_bytes = (sum(column) for column in zip(*columns, strict=True))
        return cls("all", nats, int(num_tokens), int(num_bytes))


class HeldOut:
    """Held-out documents as ids (END_OF_TEXT first), and the number of bytes behind each id."""

    def __init__(
        self, documents: Sequence[Document], tokenizer: Tokenizer, end_of_text_id: int
    ) -> None:
        self._ids = {
            document.name: torch.tensor([end_of_text_id, *tokenizer.encode(document.text)])
            for document in documents
        }
        self._num_bytes = torch.tensor(
            [_num_bytes(tokenizer, i) for i in range(tokenizer.vocab_size)]
        )

    def score(
        self, model: GPT, dtype: torch.dtype, max_windows: int | None = None
    ) -> tuple[Score, ...]:
        """Score each document, or its first ``max_windows`` windows.

        Windows are as long as the model's context and do not overlap; each token is predicted
        once, from what stands before it in its window, the first from END_OF_TEXT.
        """
        window_len = model.config.num_positions
        end = None if max_windows is None else max_windows * window_len + 1
        return tuple(
            self._score_one(model, dtype, name, ids[:end]) for name, ids in self._ids.items()
        )

    def _score_one(self, model: GPT, dtype: torch.dtype, name: str, ids: Tensor) -> Score:
        inputs, targets = ids[:-1], ids[1:]
        window_len = model.config.num_positions
        windows = (slice(i, i + window_len) for i in range(0, len(targets), window_len))
        nats = sum(_nats(model, dtype, inputs[window], targets[window]) for window in windows)
        return Score(name, nats, len(targets), int(self._num_bytes[targets].sum()))


@torch.no_grad()
def _nats(model: GPT, dtype: torch.dtype, ids: Tensor, targets: Tensor) -> float:
    """Surprise of one window, in nats. ids and targets (N), N at most the context."""
    was_training = model.training
    model.eval()
    batch = Batch(ids, torch.arange(len(ids)), targets, len(ids)).to(model.wte.weight.device)
    hidden = hidden_states(model, batch, dtype)
    loss = next_token_loss(hidden, model.lm_head.weight, batch.targets, dtype)
    model.train(was_training)
    return loss.item() * len(ids)


def _num_bytes(tokenizer: Tokenizer, token_id: int) -> int:
    """Bytes of text that an id stands for; an id without a token has none."""
    try:
        return len(tokenizer.token_bytes(token_id))
    except KeyError:
        return 0
