"""Quantised matrices: how close, how they lie in memory, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from model.int4_search import CODEBOOK, Levels, fit_groups
from model.quantised import GROUP_LEN, Int4Matrix, Int8Matrix

KINDS = [Int8Matrix, Int4Matrix]
SHAPES = [(1, 32), (5, 32), (16, 64), (47, 96), (48, 32), (100, 256), (3100, 32)]

Matrix = Int8Matrix | Int4Matrix


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_quantised_is_close(kind: type[Matrix], shape: tuple[int, int]) -> None:
    weight = torch.randn(shape)
    matrix = kind.quantise(weight)
    error = matrix.dequantise() - weight
    assert error.norm() < (0.012 if kind is Int8Matrix else 0.1) * weight.norm()
    assert (matrix.num_outputs, matrix.num_inputs) == shape


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_are_those_of_the_whole(kind: type[Matrix], shape: tuple[int, int]) -> None:
    matrix = kind.quantise(torch.randn(shape))
    ids = torch.cat([torch.randint(0, shape[0], (9,)), torch.tensor([shape[0] - 1, 0])])
    assert torch.equal(matrix.rows(ids), matrix.dequantise()[ids])


def test_int8_rounds_to_nearest() -> None:
    """Inputs that are no multiple of four, as only int8 can have them."""
    weight = torch.randn(50, 37)
    matrix = Int8Matrix.quantise(weight)
    scales = weight.abs().amax(1) / 127
    assert torch.equal(matrix.scales[:50], scales)
    assert torch.equal(matrix.values().int(), (weight / scales[:, None]).round().int())
    assert ((matrix.dequantise() - weight).abs() <= scales[:, None] * 0.5001).all()


def test_int8_bytes_lie_where_the_native_products_read_them() -> None:
    """Fours of inputs, then the outputs of a block; 128 is zero, and what pads."""
    weight = torch.randint(-127, 128, (50, 6)).float()
    weight[:, 0] = 127
    matrix = Int8Matrix.quantise(weight)
    assert matrix.packed.shape == (64 * 8,)
    assert matrix.scales.shape == (64,)
    for output, channel in ((0, 0), (3, 5), (47, 2), (48, 0), (49, 5)):
        block, width = (0, 48) if output < 48 else (48 * 8, 16)
        place = block + channel // 4 * width * 4 + output % 48 * 4 + channel % 4
        assert int(matrix.packed[place]) - 128 == int(weight[output, channel])
    assert int(matrix.packed[2 * 4 + 3]) - 128 == int(weight[2, 3])
    assert int(matrix.packed[48 * 4 + 2]) == 128  # the seventh input, which there is none of
    assert (matrix.packed[48 * 8 + 2 * 4 : 48 * 8 + 16 * 4] == 128).all()
    assert (matrix.scales[50:] == 0).all()


def test_int4_bytes_lie_where_the_native_products_read_them() -> None:
    codes = torch.randint(0, 16, (50, 64))
    codes[:, ::32] = 0  # an extreme, so that every scale is 1
    matrix = Int4Matrix.quantise(torch.tensor(CODEBOOK)[codes].float())
    assert torch.equal(matrix.values().long(), torch.tensor(CODEBOOK)[codes])
    assert (matrix.group_scales() == 1).all()
    assert (matrix.packed.numel(), matrix.scales.numel()) == (64 * 32, 64 * 2)
    for output, group, t in ((0, 0, 0), (47, 1, 15), (48, 0, 7), (49, 1, 3)):
        block, width = (0, 48) if output < 48 else (48 * 32, 16)
        place = 16 * group + t  # among the 32 bytes of an output
        found = int(matrix.packed[block + place // 4 * width * 4 + output % 48 * 4 + place % 4])
        low, high = codes[output, 32 * group + t], codes[output, 32 * group + 16 + t]
        assert found == int(low) | int(high) << 4
    padding = matrix.packed[48 * 32 :].view(8, 16, 4)[:, 2:]
    assert (padding == 0).all()
    assert (matrix.scales[48 * 2 :].view(2, 16)[:, 2:] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_tiny_and_large_weights_stay_numbers(kind: type[Matrix]) -> None:
    weight = torch.randn(5, 64)
    weight[0] = 0
    weight[1] *= 1e-40
    weight[1, 3] = 0
    weight[2] *= 1e4
    weight[3, :32] = 0
    found = kind.quantise(weight).dequantise()
    assert (found[0] == 0).all()
    assert (found[1].abs() <= 1e-38).all()
    assert (found[3, :32] == 0).all()
    assert (found[2] - weight[2]).norm() < 0.1 * weight[2].norm()


def test_int4_spares_a_group_its_neighbours_outlier() -> None:
    weight = torch.randn(1, 64)
    alone = Int4Matrix.quantise(weight).dequantise()[0, 32:]
    weight[0, 3] = 1000
    assert torch.equal(Int4Matrix.quantise(weight).dequantise()[0, 32:], alone)


def test_the_search_loses_a_quarter_less_than_q4_0() -> None:
    """llama.cpp's Q4_0, on the weights that the levels were derived for."""
    weight = torch.randn(200, 512)
    blocks = weight.view(-1, 32)
    extreme = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = (extreme / -8).half().float()
    theirs = (torch.floor(blocks / scale + 8.5).clamp(0, 15) - 8) * scale
    their_error = (theirs - blocks).square().sum()
    our_error = (Int4Matrix.quantise(weight).dequantise() - weight).square().sum()
    assert our_error < 0.75 * their_error


def test_inputs_with_more_energy_lose_less() -> None:
    weight, energy = torch.randn(100, 64), torch.rand(64) * 10
    energy[5] = 1000

    def loss(matrix: Int4Matrix) -> torch.Tensor:
        return ((matrix.dequantise() - weight).square() * energy).sum()

    weighed, plain = Int4Matrix.quantise(weight, energy), Int4Matrix.quantise(weight)
    assert loss(weighed) < 0.6 * loss(plain)


def test_the_levels_are_those_that_the_derivation_comes_to() -> None:
    """Lloyd's iteration: codes and scales by the search, then levels by least squares.

    From evenly spaced levels, on normally distributed groups.
    """
    groups = torch.randn(GROUP_LEN, 20_000)
    book = torch.linspace(-127, 120, 16)
    for _ in range(25):
        scales, codes = fit_groups(groups, Levels(book))
        spread = scales.float().expand_as(groups).flatten()
        places = codes.flatten().long()
        match = torch.zeros(16).index_add_(0, places, groups.flatten() * spread)
        book = match / torch.zeros(16).index_add_(0, places, spread * spread)
        book *= 127 / book.abs().max()
    assert (book - torch.tensor(CODEBOOK)).abs().max() < 3


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32, got 48"):
        Int4Matrix.quantise(torch.randn(4, 48))
    good = Int8Matrix.quantise(torch.randn(5, 8))
    with pytest.raises(ValueError, match=r"packed must be 128 numbers of torch.uint8.*\(127,\)"):
        Int8Matrix(good.packed[1:], good.scales, 5, 8)
    with pytest.raises(ValueError, match=r"scales must be 16 numbers of torch.float32.*float16"):
        Int8Matrix(good.packed, good.scales.half(), 5, 8)
    four = Int4Matrix.quantise(torch.randn(5, 32))
    with pytest.raises(ValueError, match="packed must be 512 numbers"):
        Int4Matrix(four.packed, four.scales, 5, 64)
