"""The noise of a draw is a pure function, and what model.philox says."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.kernels.gpu.noise import GUMBEL_STREAM, LARGEST_UNIFORM, gumbel_noise
from model.philox import philox4x32

WORD = 2**32 - 1


def expected_noise(seed: int, choice_index: int, token_index: int, token_id: int) -> float:
    key = (seed & WORD, seed >> 32)
    x = philox4x32(key, (token_index, choice_index, token_id, GUMBEL_STREAM))[0]
    return -math.log(-math.log1p(-min((x + 0.5) / 2**32, LARGEST_UNIFORM)))


def signed(seed: int) -> int:
    """The int64 with the same 64 bits."""
    return seed - 2**64 if seed >= 2**63 else seed


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**31 - 1), st.integers(0, 1023))
def test_the_noise_is_philox_by_its_definition(seed: int, choice: int, token_index: int) -> None:
    noise = gumbel_noise(
        torch.tensor([signed(seed)]), torch.tensor([choice]), torch.tensor([token_index]), 5
    )
    expected = [expected_noise(seed, choice, token_index, token_id) for token_id in range(5)]
    torch.testing.assert_close(noise[0], torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_every_part_of_the_key_matters() -> None:
    base = (7, 0, 3)
    others = [(8, 0, 3), (7 + 2**32, 0, 3), (7, 1, 3), (7, 0, 4)]
    seeds, choices, indices = (torch.tensor(part) for part in zip(base, *others, strict=True))
    noise = gumbel_noise(seeds, choices, indices, 50)
    assert len({tuple(line) for line in noise.tolist()}) == 5


def test_the_noise_has_a_gumbel_distribution() -> None:
    """Mean 0.5772 and variance pi^2 / 6, over 200,000 numbers; all finite."""
    count = 4
    noise = gumbel_noise(torch.arange(count), torch.zeros(count), torch.zeros(count), 50_000)
    assert bool(noise.isfinite().all())
    assert abs(noise.mean().item() - 0.57722) < 0.01
    assert abs(noise.var().item() - math.pi**2 / 6) < 0.03


def test_a_row_is_the_same_in_any_batch_and_vocabulary() -> None:
    seeds, zeros = torch.arange(6), torch.zeros(6, dtype=torch.int32)
    noise = gumbel_noise(seeds, zeros, zeros, 60)
    alone = gumbel_noise(seeds[4:5], zeros[:1], zeros[:1], 33)
    assert torch.equal(alone[0], noise[4, :33])
