"""Task heads: shares that add up to the joined form, and bits that no company changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model.heads import TaskHead, head_shape
from model.tasks import TaskConfig, outcome

C = 48

PAIR: dict[str, Any] = {"form": "similarity", "max_len": 9}


def head(**values: Any) -> TaskHead:
    config = TaskConfig(**values)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(head_shape(config, C), generator=generator)
    return TaskHead(config, weight, torch.randn(config.num_outputs, generator=generator))


def hidden(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, C, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("join", ["sum", "concatenate"])
def test_two_shares_add_up_to_what_is_joined(join: str) -> None:
    """GPT paper, section 3.3: element-wise addition before the linear output layer."""
    made = head(**PAIR, join=join, labels=("a", "b", "c"))
    a, b = hidden(2)
    joined = a + b if join == "sum" else torch.cat((a, b))
    expected = made.weight.double() @ joined.double() + made.bias.double()
    shares = made.logits(torch.stack((a, b)), (0, 1))
    torch.testing.assert_close(shares.double().sum(0), expected, rtol=1e-5, atol=1e-5)
    whole = made.joined(torch.stack((a, b))[None])[0]
    torch.testing.assert_close(whole.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_sum_does_not_know_the_order_to_the_last_bit() -> None:
    made = head(**PAIR, join="sum", labels=("a", "b"))
    pair = hidden(2)
    forth, back = (made.logits(x, (0, 1)).tolist() for x in (pair, pair.flip(0)))
    assert outcome(made.config, forth) == outcome(made.config, back)


def test_concatenation_knows_the_order() -> None:
    made = head(**PAIR, join="concatenate", labels=("a", "b"))
    pair = hidden(2)
    assert not torch.equal(made.logits(pair, (0, 1)).sum(0), made.logits(pair, (1, 0)).sum(0))


def test_one_sequence_and_choices() -> None:
    plain = head(form="classification", max_len=9, labels=("a", "b"))
    x = hidden(3)
    torch.testing.assert_close(plain.logits(x, (0, 0, 0)), x @ plain.weight.T + plain.bias)
    torch.testing.assert_close(plain.joined(x[:, None]), x @ plain.weight.T + plain.bias)
    choice = head(form="multiple_choice", max_len=9)
    assert choice.logits(x, (0, 1, 2)).shape == (3, 1)
    torch.testing.assert_close(choice.joined(x[None])[0], choice.logits(x, (0, 1, 2))[:, 0])


def test_bits_of_a_row_do_not_depend_on_its_company() -> None:
    made = head(**PAIR, join="concatenate", labels=("a", "b", "c"))
    x = hidden(70)
    orders = [row % 2 for row in range(70)]
    whole = made.logits(x, orders)
    for rows in (slice(0, 1), slice(5, 6), slice(3, 20), slice(33, 70)):
        assert torch.equal(made.logits(x[rows], orders[rows]), whole[rows])
    shifted = torch.empty(C * 70 + 1)[1:].view(70, C).copy_(x)  # at another place in memory
    assert torch.equal(made.logits(shifted, orders), whole)


def test_logits_are_float32_whatever_comes_and_no_rows_are_no_error() -> None:
    made = head(form="classification", max_len=9, labels=("a", "b"))
    assert made.logits(hidden(1).bfloat16(), (0,)).dtype == torch.float32
    assert made.logits(hidden(0), ()).shape == (0, 2)
