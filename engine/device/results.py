"""What steps leave, and how it comes back: a ring of pinned lines, one for each queued launch."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.admission import MAX_LOGPROBS
from engine.device.sampling import DrawnRows
from engine.device.staging import Words
from engine.device.state import NO_ID
from engine.device.stream import Marker, Stream
from engine.request import TokenLogprob
from engine.step import Drawn

_TOP = slice(1, 1 + MAX_LOGPROBS)
_TOP_LOGPROBS = slice(1 + MAX_LOGPROBS, 1 + 2 * MAX_LOGPROBS)


@dataclass(frozen=True, slots=True)
class Results:
    """The last step's results on the device, int32, overwritten by the next.

    ``tokens`` (B, 2): the id, or NO_ID, and 1 where the sequence goes on. ``details``
    (B, 1 + 2K): the token's log probability, K ids, K log probabilities, floats as their bits.
    """

    tokens: Tensor
    details: Tensor

    @classmethod
    def allocate(cls, num_rows: int, device: torch.device) -> Results:
        """For at most ``num_rows`` rows."""
        shapes = ((num_rows, 2), (num_rows, 1 + 2 * MAX_LOGPROBS))
        return cls(*(torch.zeros(shape, dtype=torch.int32, device=device) for shape in shapes))

    def write(self, tokens: Tensor, goes_on: Tensor, drawn: DrawnRows) -> None:
        """Take in a step of B rows; both tensors (B) int32."""
        num_rows = len(tokens)
        self.tokens[:num_rows, 0] = tokens
        self.tokens[:num_rows, 1] = goes_on
        write_details(self.details[:num_rows], drawn)


def write_details(details: Tensor, drawn: DrawnRows) -> None:
    """Log probabilities into (B, 1 + 2K), where there are any."""
    if drawn.logprobs is None or drawn.top_ids is None or drawn.top_logprobs is None:
        return
    count = drawn.top_ids.shape[1]
    details[:, 0] = drawn.logprobs.view(torch.int32)
    details[:, _TOP][:, :count] = drawn.top_ids.int()
    details[:, _TOP_LOGPROBS][:, :count] = drawn.top_logprobs.contiguous().view(torch.int32)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A claim on one line of the ring: valid once ``end`` is reached, until it is given back."""

    line: int
    num_rows: int
    start: Marker
    end: Marker


class TokenRing:
    """Lines of host memory that steps' results are copied to, in the order of launches."""

    def __init__(self, stream: Stream, results: Results, depth: int) -> None:
        self._stream = stream
        self._results = results
        self._tokens = stream.host_buffer(depth, *results.tokens.shape)
        self._details = stream.host_buffer(depth, *results.details.shape)
        self._token_view: Words = self._tokens.numpy()
        self._detail_view: Words = self._details.numpy()
        self._free = deque(range(depth))

    @property
    def num_free(self) -> int:
        """Launches that may still be queued."""
        return len(self._free)

    def bring(self, num_rows: int, start: Marker, *, has_details: bool) -> Ticket:
        """Queue the copy of the results of the step queued last. Raises IndexError when full."""
        line = self._free.popleft()
        copies = [(self._tokens[line], self._results.tokens)]
        if has_details:
            copies.append((self._details[line], self._results.details))
        for target, source in copies:
            self._stream.run(partial(_copy, target[:num_rows], source[:num_rows]))
        return Ticket(line, num_rows, start, self._stream.mark())

    def take(self, ticket: Ticket) -> tuple[list[list[int]], Words]:
        """The tokens (B, 2) and details of a reached ticket, whose line is free again."""
        ticket.end.wait()
        tokens: list[list[int]] = self._token_view[ticket.line, : ticket.num_rows].tolist()
        details = self._detail_view[ticket.line, : ticket.num_rows].copy()
        self._free.append(ticket.line)
        return tokens, details


def _copy(target: Tensor, source: Tensor) -> None:
    target.copy_(source, non_blocking=True)


def drawn_token(token_id: int, details: Words, num_logprobs: int | None) -> Drawn | None:
    """A row's token as the scheduler wants it; ``details`` (1 + 2K) count if any are asked for."""
    if token_id == NO_ID:
        return None
    if num_logprobs is None:
        return Drawn(token_id)
    found = token_logprob(details, num_logprobs)
    return Drawn(token_id, found.logprob, found.top)


def token_logprob(details: Words, num_logprobs: int) -> TokenLogprob:
    """From one line of details, (1 + 2K)."""
    floats: NDArray[np.float32] = details.view(np.float32)
    ids: list[int] = details[_TOP][:num_logprobs].tolist()
    values: list[float] = floats[_TOP_LOGPROBS][:num_logprobs].tolist()
    return TokenLogprob(float(floats[0]), tuple(zip(ids, values, strict=True)))
