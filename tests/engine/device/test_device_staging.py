"""The pinned buffers: nothing is overwritten before it has been copied."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from engine.device.results import Results, TokenRing
from engine.device.sampling import DrawnRows
from engine.device.staging import Staging
from tests.support.device import LateStream


def test_many_sends_arrive_in_order_through_a_small_buffer() -> None:
    stream = LateStream()
    staging = Staging(stream, half_words=10)
    targets = [torch.zeros(8, dtype=torch.int32) for _ in range(20)]
    for i, target in enumerate(targets):
        staging.send(target, np.full(i % 5 + 1, i, dtype=np.int32))
    stream.mark().wait()
    for i, target in enumerate(targets):
        count = i % 5 + 1
        assert target.tolist() == [i] * count + [0] * (8 - count)


def test_a_half_is_waited_for_only_when_it_is_used_again() -> None:
    stream = LateStream()
    staging = Staging(stream, half_words=10)
    target = torch.zeros(5, dtype=torch.int32)
    for _ in range(4):  # both halves
        staging.send(target, np.ones(5, dtype=np.int32))
    assert stream.num_done == 0
    staging.send(target, np.ones(5, dtype=np.int32))
    assert stream.num_done == 2


def test_more_than_a_half_is_refused() -> None:
    staging = Staging(LateStream(), half_words=10)
    with pytest.raises(ValueError, match="at most 10 words go at once, got 11"):
        staging.send(torch.zeros(20, dtype=torch.int32), np.zeros(11, dtype=np.int32))


def test_each_launch_has_a_line_of_its_own_until_it_is_taken() -> None:
    stream = LateStream()
    results = Results.allocate(4, stream.device)
    ring = TokenRing(stream, results, depth=3)
    tickets = []
    for i in range(3):
        tokens = torch.full((2,), i, dtype=torch.int32)
        drawn = DrawnRows(tokens, torch.full((2,), i / 2), tokens.view(2, 1), torch.ones(2, 1) * i)
        stream.run(partial(results.write, tokens, tokens + 1, drawn))
        tickets.append(ring.bring(2, stream.mark(), has_details=i != 1))
    assert ring.num_free == 0
    with pytest.raises(IndexError):
        ring.bring(2, stream.mark(), has_details=False)
    for i, ticket in enumerate(tickets):
        assert not ticket.end.is_reached
        lines, details = ring.take(ticket)
        assert lines == [[i, i + 1]] * 2
        if i != 1:
            assert details.view(np.float32)[:, 0].tolist() == [i / 2] * 2
    assert ring.num_free == 3
