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
from model.kernels.packing import LANES
from model.lora import EMBEDDING_TARGET, Adapter


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
                a, offset = thin.a.contiguous(), thin.offset.contiguous()
                lines = F.pad(
                    thin.b.t(), (0, -len(thin.b) % LANES)
                ).contiguous()  # (M, r) -> (r, M)
                struct.a, struct.b = a.data_ptr(), lines.data_ptr()
                struct.offset, struct.rank = offset.data_ptr(), thin.rank
                tensors += [a, lines, offset]
        return cls(found, tensors) if tensors else None


class ThinWords:
    """What adapters add to the embeddings of their tokens."""

    def __init__(self, adapters: Sequence[Adapter], kernels: NativeKernels) -> None:
        self._kernels = kernels
        thins = ((i, adapter.get(EMBEDDING_TARGET)) for i, adapter in enumerate(adapters))
        self._words = [
            (i, NativeMatrix.from_weight(thin.a.t(), None, torch.float32), thin.b)
            for i, thin in thins
            if thin is not None
        ]

    def add(self, x: Tensor, ids: Tensor, adapters: Tensor) -> None:
        """Add to ``x`` (N, C), the embeddings of ``ids`` (N), what ``adapters`` (N) add to them.

        Ids behind the vocabulary belong to one task alone, and nothing is added to them.
        """
        for index, matrix, rows in self._words:
            is_mine = (adapters == index) & (ids < len(rows))
            x[is_mine] += self._kernels.linear(matrix, rows[ids[is_mine]])  # (n, r) -> (n, C)


def max_rank(adapters: Sequence[Adapter]) -> int:
    """Of all their thin matrices; 0 without any."""
    return max((thin.rank for adapter in adapters for thin in adapter.values()), default=0)


def adapter_lines(spans: Sequence[Span]) -> Tensor | None:
    """The adapter of each token of a step, (N) int32, -1 for none; None where no span has one."""
    if all(span.adapter is None for span in spans):
        return None
    lines = [
        -1 if span.adapter is None else span.adapter for span in spans for _ in range(span.length)
    ]
    return torch.tensor(lines, dtype=torch.int32)
