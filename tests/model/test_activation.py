"""Activations have the same bits wherever in a batch their row stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.activation import TiledActivation


@pytest.fixture(params=[1, 3])
def _num_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


@pytest.mark.usefixtures("_num_threads")
@pytest.mark.parametrize("function", [gelu, F.gelu, F.silu, torch.tanh])
@pytest.mark.parametrize("num_inputs", [160, 33, 3072])
def test_bits_do_not_depend_on_the_batch(
    num_inputs: int, function: Callable[[Tensor], Tensor]
) -> None:
    x = torch.randn(300, num_inputs)
    tiled = TiledActivation(function)
    whole = tiled(x)
    assert torch.allclose(whole, function(x), atol=1e-6)
    for num_rows in (1, 2, 7, 11, 107, 205, 299):
        for first in (0, 300 - num_rows):
            rows = slice(first, first + num_rows)
            assert torch.equal(tiled(x[rows]), whole[rows])
