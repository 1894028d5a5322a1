"""An activation whose bits do not depend on the batch.

torch computes what is left over at the end of a thread's share by another function than whole
vectors, and where shares end depends on the number of elements and of threads. So rows are padded
to whole vectors, and go through in pieces that no two threads share.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

VECTOR_LEN = 64
"""A multiple of the elements of any vector that torch uses."""

MAX_ELEMENTS = 16_384
"""Up to so many are one thread's: what GELU shares out beyond (ATen's Activation.cpp); others do
so beyond 32,768 (ATen/Parallel.h)."""


class TiledActivation:
    """``function``, element by element, on (N, K)."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function

    def __call__(self, x: Tensor) -> Tensor:
        """(N, K) -> (N, K)."""
        num_inputs = x.shape[1]
        padded = F.pad(x, (0, -num_inputs % VECTOR_LEN))
        num_rows = max(MAX_ELEMENTS // padded.shape[1], 1)
        pieces = [self._function(piece) for piece in torch.split(padded, num_rows)]
        return torch.cat(pieces)[:, :num_inputs]
