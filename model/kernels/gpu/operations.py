"""Operations: what a decoder on a GPU is made of, by kernels (launch) or in torch (reference).

All write to the tensors they are given and allocate nothing that outlives them; none waits for the
device. Shapes of arguments are those of buffers.py.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from model.config import Activation
from model.kernels.gpu.buffers import (
    Chosen,
    Draws,
    Filters,
    LayerCache,
    Linear,
    Norm,
    QueryTiles,
    Residual,
    Rows,
    SplitScratch,
    TileBest,
)


class Operations(Protocol):
    """Two modules have these functions: ``reference`` and ``launch``."""

    def embed(self, rows: Rows, wte: Tensor, wpe: Tensor, stream: Tensor) -> None:
        """Token (V, C) and position (T, C) embeddings of the rows into ``stream`` (N, C)."""
        ...

    def norm(
        self, residual: Residual, target: Tensor, norm: Norm, index: Tensor | None, out: Tensor
    ) -> None:
        """The summed stream, normalised, into ``out``; its rows ``index`` (W) int32 if given.

        Where there are partials, the sum of those rows goes to ``target`` (N, C).
        """
        ...

    def norm_qkv(
        self,
        residual: Residual,
        target: Tensor,
        norm: Norm,
        linear: Linear,
        rows: Rows,
        queries: Tensor,
        cache: LayerCache,
    ) -> None:
        """Norm, c_attn and bias: queries (N, C), and keys and values to the rows' places."""
        ...

    def norm_activation(
        self,
        residual: Residual,
        target: Tensor,
        norm: Norm,
        linear: Linear,
        activation: Activation,
        out: Tensor,
    ) -> None:
        """Norm, c_fc, bias and activation into ``out`` (N, inner)."""
        ...

    def split_product(self, x: Tensor, linear: Linear, partials: Tensor) -> None:
        """``x`` (N, K) by a weight into partial sums (P, N, M), the bias in the first."""
        ...

    def product(self, x: Tensor, linear: Linear, out: Tensor) -> None:
        """``x`` (N, K) by a weight plus its bias into ``out`` (N, M), for many rows."""
        ...

    def scatter(self, wide: Tensor, rows: Rows, queries: Tensor, cache: LayerCache) -> None:
        """Spread a finished (N, 3C) to queries and cache."""
        ...

    def activate(self, wide: Tensor, activation: Activation) -> None:
        """In place."""
        ...

    def decode_attention(
        self,
        queries: Tensor,
        cache: LayerCache,
        rows: Rows,
        scale: float,
        splits: SplitScratch,
        out: Tensor,
    ) -> None:
        """Each row attends to its slot up to its own position, into ``out`` (B, C)."""
        ...

    def prefill_attention(
        self, queries: Tensor, cache: LayerCache, tiles: QueryTiles, scale: float, out: Tensor
    ) -> None:
        """Each query attends to its slot up to its own position, into ``out`` (N, C)."""
        ...

    def logits(self, hidden: Tensor, weight: Tensor, out: Tensor, row_tile: int) -> None:
        """The head: ``hidden`` (B, C) by (V, C) into ``out`` (B, V) float32."""
        ...

    def head_draw(
        self,
        hidden: Tensor,
        weight: Tensor,
        draws: Draws,
        best: TileBest,
        out: Tensor,
        row_tile: int,
    ) -> None:
        """The head and the draw without filters: ids (B) int32, without logits in memory."""
        ...

    def sample(self, logits: Tensor, draws: Draws, filters: Filters, chosen: Chosen) -> None:
        """Draw with filters and penalties from ``logits`` (B, V), in model.sampler's order."""
        ...
