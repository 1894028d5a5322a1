"""Log probabilities of prompt tokens, from the hidden states that the last prefill left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from engine.admission import MAX_LOGPROBS
from engine.device.results import token_logprob, write_details
from engine.device.sampling import with_logprobs
from engine.device.staging import Staging, Words
from engine.device.stream import Stream
from engine.device.torch_decoder import Decoder
from engine.request import TokenLogprob
from engine.step import StepRow

SCORED_ROWS = 64
"""Rows whose logits exist at once; the last tile ends with older spots, so all have one shape."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Host memory that will hold details (spots, 1 + 2K), and how many are asked for at each."""

    details: Tensor
    num_logprobs: tuple[int, ...]


class Scorer:
    """``hidden`` (N, C) is overwritten by the next prefill: queue scores right behind theirs."""

    def __init__(self, stream: Stream, staging: Staging, decoder: Decoder, hidden: Tensor) -> None:
        self._stream = stream
        self._staging = staging
        self._decoder = decoder
        self._hidden = hidden
        shape = (2, len(hidden) + SCORED_ROWS)
        self._spots = torch.zeros(shape, dtype=torch.int32, device=stream.device)

    def queue(self, rows: Sequence[StepRow]) -> Scores | None:
        """Score the tokens that ``rows`` ask about; None where none does."""
        places, targets, counts = _spots(rows)
        if not places:
            return None
        for line, values in zip(self._spots, (places, targets), strict=True):
            self._staging.send(line, np.array(values, dtype=np.int32))
        details = self._stream.host_buffer(len(places), 1 + 2 * MAX_LOGPROBS)
        for first in range(0, len(places), SCORED_ROWS):
            self._stream.run(partial(self._score, first, details[first : first + SCORED_ROWS]))
        return Scores(details, tuple(counts))

    def _score(self, first: int, host: Tensor) -> None:
        places, targets = self._spots[:, first : first + SCORED_ROWS].long()
        found = with_logprobs(self._decoder.logits(self._hidden[places]), targets)
        shape = (SCORED_ROWS, 1 + 2 * MAX_LOGPROBS)
        details = torch.zeros(shape, dtype=torch.int32, device=self._hidden.device)
        write_details(details, found)
        host.copy_(details[: len(host)], non_blocking=True)

    def read(self, scores: Scores | None) -> Iterator[TokenLogprob]:
        """One after the other, of a launch whose marker is reached."""
        if scores is None:
            return
        lines: Words = scores.details.numpy()
        for line, num_logprobs in zip(lines, scores.num_logprobs, strict=True):
            yield token_logprob(line, num_logprobs)


def _spots(rows: Sequence[StepRow]) -> tuple[list[int], list[int], list[int]]:
    """Where along N something is asked, about which token, and how many likeliest beside it."""
    places: list[int] = []
    targets: list[int] = []
    counts: list[int] = []
    start = 0
    for row in rows:
        if row.scoring is not None:
            asked = row.scoring
            places += range(start + asked.offset, start + asked.offset + len(asked.target_ids))
            targets += asked.target_ids
            counts += [asked.num_logprobs] * len(asked.target_ids)
        start += len(row.token_ids)
    return places, targets, counts
