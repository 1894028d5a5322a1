"""Log probabilities against torch's own, ties included, and the same bits for every batch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.logprobs import logprobs


@pytest.mark.parametrize("vocab_size", [5, 256, 1_000])
def test_they_are_log_softmax(vocab_size: int) -> None:
    logits = torch.randn(9, vocab_size) * 4 - 100  # where real GPT-2 logits lie
    ids = [i * 3 % vocab_size for i in range(9)]
    expected = logits.double().log_softmax(-1)
    for i, found in enumerate(logprobs(logits, ids, 4)):
        assert found.logprob == pytest.approx(expected[i, ids[i]].item(), abs=1e-5)
        values, top_ids = expected[i].topk(4)
        assert [token_id for token_id, _ in found.top] == top_ids.tolist()
        assert [value for _, value in found.top] == pytest.approx(values.tolist(), abs=1e-5)


@settings(deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(-3, 3), min_size=7, max_size=7), min_size=1, max_size=5),
    num_top=st.integers(0, 9),
)
def test_ties_go_to_the_lower_id(rows: list[list[int]], num_top: int) -> None:
    found = logprobs(torch.tensor(rows, dtype=torch.float32), [0] * len(rows), num_top)
    for row, one in zip(rows, found, strict=True):
        order = sorted(range(7), key=lambda i: (-row[i], i))
        assert [token_id for token_id, _ in one.top] == order[:num_top]


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_row_has_the_same_bits_in_every_batch(num_threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        logits = torch.randn(64, 50_257) * 3
        ids = list(range(0, 64 * 700, 700))
        whole = logprobs(logits, ids, 3)
        for rows in (slice(0, 1), slice(63, 64), slice(3, 5), slice(7, 40)):
            assert logprobs(logits[rows], ids[rows], 3) == whole[rows]
    finally:
        torch.set_num_threads(before)


def test_impossible_tokens_are_minus_infinity_and_nothing_else_is_harmed() -> None:
    logits = torch.tensor([[0.0, -math.inf, 0.0, -math.inf]])
    (found,) = logprobs(logits, [1], 4)
    assert found.logprob == -math.inf
    assert found.top == (
        (0, -math.log(2)), (2, -math.log(2)), (1, -math.inf), (3, -math.inf)
    )  # fmt: skip
