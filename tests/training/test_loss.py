"""The chunked loss against torch's own, value and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training import loss
from training.loss import next_token_loss


def inputs(num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(num_rows, 8, generator=generator).requires_grad_()
    weight = torch.randn(20, 8, generator=generator).requires_grad_()
    return hidden, weight, torch.randint(20, (num_rows,), generator=generator)


@pytest.mark.parametrize("num_rows", [1, 7, 8, 21])
def test_value_and_gradients_are_cross_entropys(
    num_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole chunks, a part of one, and both."""
    monkeypatch.setattr(loss, "CHUNK_ROWS", 8)
    hidden, weight, targets = inputs(num_rows)
    expected = F.cross_entropy(hidden @ weight.T, targets)
    wanted = torch.autograd.grad(2 * expected, (hidden, weight))
    found = next_token_loss(hidden, weight, targets, torch.float32)
    grads = torch.autograd.grad(2 * found, (hidden, weight))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(grads, wanted)


def test_bfloat16_products_stay_near_float32() -> None:
    hidden, weight, targets = inputs(50)
    wide = next_token_loss(hidden, weight, targets, torch.float32)
    narrow = next_token_loss(hidden, weight, targets, torch.bfloat16)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, wide, rtol=1e-2, atol=0)


def test_without_gradients_the_value_is_the_same() -> None:
    hidden, weight, targets = inputs(9)
    expected = next_token_loss(hidden, weight, targets, torch.float32)
    with torch.no_grad():
        found = next_token_loss(hidden, weight, targets, torch.float32)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected.detach())


def test_a_frozen_weight_gets_no_gradient_and_changes_nothing() -> None:
    hidden, weight, targets = inputs(9)
    wanted = torch.autograd.grad(F.cross_entropy(hidden @ weight.T, targets), hidden)
    frozen = weight.detach()
    found = next_token_loss(hidden, frozen, targets, torch.float32)
    torch.testing.assert_close(torch.autograd.grad(found, hidden), wanted)
    assert frozen.grad is None
