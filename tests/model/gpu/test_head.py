"""The head with its draw: the argmax of noisy logits, whatever the tiles and the company."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.kernels.gpu import launch, reference
from model.kernels.gpu.buffers import Draws, TileBest
from model.kernels.gpu.noise import gumbel_noise
from tests.support.gpu_cases import DEVICE, random_draws

VOCAB, CHANNELS = 83, 40


def draw(hidden: Tensor, weight: Tensor, draws: Draws, row_tile: int = 16) -> Tensor:
    best = TileBest.allocate(len(hidden), len(weight), CHANNELS, weight.dtype, DEVICE)
    best.values.fill_(float("nan"))
    best.ids.fill_(-1)
    out = torch.full((len(hidden),), -1, dtype=torch.int32)
    launch.head_draw(hidden, weight, draws, best, out, row_tile)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_draw_is_the_argmax_of_noisy_logits(dtype: torch.dtype) -> None:
    """The kernel makes the noise that noise.py makes, for 40 rows of 83 tokens."""
    hidden = torch.randn(40, CHANNELS).to(dtype).float()
    weight = (torch.randn(VOCAB, CHANNELS) * 0.3).to(dtype)
    draws = random_draws(40, temperature=0.7)
    expected = torch.full((40,), -1, dtype=torch.int32)
    best = TileBest.allocate(40, VOCAB, CHANNELS, dtype, DEVICE)
    reference.head_draw(hidden, weight, draws, best, expected, 16)
    for row_tile in (16, 64):
        assert torch.equal(draw(hidden, weight, draws, row_tile), expected)
    greedy = (hidden @ weight.float().t()).argmax(-1)
    assert torch.equal(expected[1::2], greedy[1::2].int())
    assert not torch.equal(expected[::2], greedy[::2].int())


def test_the_noise_of_the_kernel_over_many_seeds() -> None:
    """Equal logits leave the choice to the noise alone."""
    draws = random_draws(64, seed=5)
    draws.temperatures.fill_(1.0)
    found = draw(torch.zeros(64, CHANNELS), torch.zeros(VOCAB, CHANNELS), draws)
    noise = gumbel_noise(draws.seeds, draws.choice_indices, draws.token_indices, VOCAB)
    assert torch.equal(found.long(), noise.argmax(-1))
    assert len(set(found.tolist())) > 30


def test_ties_go_to_the_lower_id_within_a_tile_and_across() -> None:
    weight = torch.zeros(VOCAB, CHANNELS)
    weight[[70, 37, 35]] = 1
    greedy = random_draws(2, temperature=0.0)
    assert draw(torch.ones(2, CHANNELS), weight, greedy).tolist() == [35, 35]
    assert draw(-torch.ones(2, CHANNELS), weight, greedy).tolist() == [0, 0]


def test_logits_far_from_zero_keep_their_order_and_low_temperatures_are_finite() -> None:
    weight = torch.full((VOCAB, CHANNELS), -100 / CHANNELS)
    weight[50, 0] += 0.01
    for temperature in (0.0, 1e-35, 1e-4):
        draws = random_draws(1, temperature=temperature)
        assert draw(torch.ones(1, CHANNELS), weight, draws).tolist() == [50]


@pytest.mark.usefixtures("independent_rows")
def test_a_rows_token_does_not_depend_on_the_batch() -> None:
    hidden, weight = torch.randn(37, CHANNELS), torch.randn(VOCAB, CHANNELS) * 0.1
    draws = random_draws(37)
    together = draw(hidden, weight, draws)
    for i in (0, 16, 36):
        row = slice(i, i + 1)
        alone = Draws(
            draws.temperatures[row],
            draws.seeds[row],
            draws.choice_indices[row],
            draws.token_indices[row],
        )
        assert draw(hidden[row], weight, alone)[0] == together[i]


def test_logits_in_memory_are_those_of_the_reference() -> None:
    hidden, weight = torch.randn(5, CHANNELS), torch.randn(VOCAB, CHANNELS)
    found, expected = torch.full((5, VOCAB), float("nan")), torch.empty(5, VOCAB)
    launch.logits(hidden, weight, found, 16)
    reference.logits(hidden, weight, expected, 16)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    wide = torch.full((5, VOCAB), float("nan"))
    launch.logits(hidden, weight, wide, 64)
    torch.testing.assert_close(wide, expected, rtol=1e-5, atol=1e-5)
