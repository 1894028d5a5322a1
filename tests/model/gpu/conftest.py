"""Numbers are fresh for each test and the same in each run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.gpu_cases import DEVICE


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> Iterator[None]:
    torch.manual_seed(sum(request.node.name.encode()))
    with torch.device(DEVICE), torch.inference_mode():
        yield


@pytest.fixture
def independent_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix instruction computes each row by itself, as bit equality needs. The library behind
    numpy, which the interpreter multiplies with, takes other sums for other rows of a tile."""
    multiply = np.matmul

    def row_by_row(a: Any, b: Any, **options: Any) -> Any:
        return np.concatenate([multiply(a[i : i + 1], b, **options) for i in range(len(a))])

    monkeypatch.setattr(np, "matmul", row_by_row)
