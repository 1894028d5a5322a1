"""Adapters (model/lora.py) as the native kernels read them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention import Span
from model.kernels import structs
from model.kernels.native import NativeKernels, NativeMatrix
from model.kernels.packing import LANES, padded
from model.lora import EMBEDDING_TARGET, Adapter

RANK_TILE = 4
"""Lines of thin matrices that are multiplied together; there are whole tiles of them."""


@dataclass(frozen=True, slots=True)
class NativeThins:
    """What each adapter has beside one matrix; keeps what it points to alive."""

    structs: ctypes.Array[structs.Thin]
    tensors: Sequence[Tensor]

    @classmethod
    def beside(cls, name: str, adapters: Sequence[Adapter]) -> NativeThins | None:
        """``name`` is that of the matrix without ``.weight``; None if nothing is beside it."""
        tensors: list[Tensor] = []
        found = (structs.Thin * len(adapters))()
        for struct, adapter in zip(found, adapters, strict=True):
            if thin := adapter.get(name):
                a, b = _tiles(thin.a), _tiles(thin.b.t())
                offset = F.pad(thin.offset, (0, -thin.rank % RANK_TILE))
                struct.a, struct.b = a.data_ptr(), b.data_ptr()
                struct.offset, struct.rank = offset.data_ptr(), len(a)
                tensors += [a, b, offset]
        return cls(found, tensors) if tensors else None


class ThinWords:
    """What adapters add to the embeddings of their tokens."""

    def __init__(self, adapters: Sequence[Adapter], kernels: NativeKernels) -> None:
        self._kernels = kernels
        thins = ((i, adapter.get(EMBEDDING_TARGET)) for i, adapter in enumerate(adapters))
        self._words = {
            i: (NativeMatrix.from_weight(thin.a.t(), None, torch.float32), thin.b)
            for i, thin in thins
            if thin is not None
        }

    def add(self, x: Tensor, ids: Tensor, adapters: Tensor) -> None:
        """Add to ``x`` (N, C), the embeddings of ``ids`` (N), what ``adapters`` (N) add to them.

        Ids behind the vocabulary belong to one task alone, and nothing is added to them.
        """
        for index in self._words.keys() & set(adapters.tolist()):
            matrix, rows = self._words[index]
            is_mine = (adapters == index) & (ids < len(rows))
            x[is_mine] += self._kernels.linear(matrix, rows[ids[is_mine]])  # (n, r) -> (n, C)


def max_rank(adapters: Sequence[Adapter]) -> int:
    """Of all their thin matrices, in whole tiles; 0 without any."""
    ranks = [padded(thin.rank, RANK_TILE) for adapter in adapters for thin in adapter.values()]
    return max(ranks, default=0)


def adapter_lines(spans: Sequence[Span]) -> Tensor | None:
    """The adapter of each token of a step, (N) int32, -1 for none; None where no span has one."""
    if all(span.adapter is None for span in spans):
        return None
    lines = [
        -1 if span.adapter is None else span.adapter for span in spans for _ in range(span.length)
    ]
    return torch.tensor(lines, dtype=torch.int32)


def _tiles(lines: Tensor) -> Tensor:
    """(r, K), padded by zeros to whole tiles of lines and whole vectors."""
    padding = (0, -lines.shape[1] % LANES, 0, -len(lines) % RANK_TILE)
    return F.pad(lines, padding).contiguous()
