"""GPUDecoder: a decode step or a prefill chunk as a fixed sequence of operations.

Nothing here waits for the device, looks at a value or allocates what outlives a call, so each
bucket can be captured in a CUDA graph. A product leaves partial sums, and whoever reads the
residual stream next adds them up: a layer of a decode step is six launches. In prefill norms stand
alone, since many rows would be normalised again for each tile of outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.attention import Span
from model.config import GPTConfig
from model.kernels.gpu.buffers import (
    Chosen,
    Draws,
    Filters,
    LayerCache,
    Linear,
    QueryTiles,
    Residual,
    Rows,
    TileBest,
    Workspace,
)
from model.kernels.gpu.operations import Operations
from model.kernels.gpu.tiles import (
    MANY_ROWS,
    QUERY_TILE,
    ROW_TILE,
    WIDE_ROW_TILE,
    product_tiles,
)
from model.kernels.gpu.weights import LayerWeights, Weights
from model.slot_cache import SlotCache


@dataclass(frozen=True, slots=True)
class GPUDecoder:
    """The decoder over a SlotCache with a key tile of 1.

    ``operations`` is the module ``launch`` or ``reference``. Where ``is_strict``, a row's bits do
    not depend on how many rows there are; else products of many rows go to the matrix library.
    """

    config: GPTConfig
    weights: Weights
    cache: SlotCache
    operations: Operations
    is_strict: bool = True

    def decode(self, rows: Rows, work: Workspace) -> Tensor:
        """Final hidden states (B, C) float32, a part of ``work``; the cache has the new tokens."""
        return self._hidden(rows, None, None, work)

    def prefill(self, rows: Rows, tiles: QueryTiles, wanted: Tensor, work: Workspace) -> Tensor:
        """Hidden states (W, C) float32 of the rows ``wanted`` (W) int32, a part of ``work``.

        Rows of a span follow each other; the cache has all of them afterwards.
        """
        return self._hidden(rows, tiles, wanted, work)

    def logits(self, hidden: Tensor, out: Tensor) -> None:
        """(B, C) into (B, V) float32."""
        self.operations.logits(hidden, self.weights.lm_head, out, self._row_tile(len(hidden)))

    def draw(self, hidden: Tensor, draws: Draws, best: TileBest, out: Tensor) -> None:
        """Ids (B) int32 by temperature alone, without logits in memory."""
        row_tile = self._row_tile(len(hidden))
        best = TileBest(best.values[: len(hidden)], best.ids[: len(hidden)])
        self.operations.head_draw(hidden, self.weights.lm_head, draws, best, out, row_tile)

    def sample(self, logits: Tensor, draws: Draws, filters: Filters, chosen: Chosen) -> None:
        """Ids, log probabilities and the likeliest of ``logits`` (B, V), with every filter."""
        self.operations.sample(logits, draws, filters, chosen)

    def _hidden(
        self, rows: Rows, tiles: QueryTiles | None, wanted: Tensor | None, work: Workspace
    ) -> Tensor:
        step = _Step(self, rows, tiles, _cut(work, len(rows.ids)))
        self.operations.embed(rows, self.weights.wte, self.weights.wpe, work.streams[0][: step.n])
        residual = Residual(step.work.streams[0], step.work.added[:0])
        for index, layer in enumerate(self.weights.layers):
            cache = LayerCache(self.cache.keys[index].squeeze(-1), self.cache.values[index])
            residual = step.layer(layer, cache, residual)
        out = work.hidden[: step.n if wanted is None else len(wanted)]
        self.operations.norm(residual, step.other(residual), self.weights.ln_f, wanted, out)
        return out

    def _row_tile(self, num_rows: int) -> int:
        is_wide = num_rows >= MANY_ROWS and not self.is_strict
        return WIDE_ROW_TILE if is_wide else ROW_TILE


@dataclass(frozen=True, slots=True)
class _Step:
    """One pass through the layers; ``tiles`` are those of a prefill."""

    decoder: GPUDecoder
    rows: Rows
    tiles: QueryTiles | None
    work: Workspace

    @property
    def n(self) -> int:
        return len(self.rows.ids)

    @property
    def is_library(self) -> bool:
        """Whether products go to the matrix library."""
        return self.n >= MANY_ROWS and not self.decoder.is_strict

    @property
    def is_fused(self) -> bool:
        """Whether norm and activation are parts of the products, as suits few rows."""
        return self.tiles is None and not self.is_library

    def other(self, residual: Residual) -> Tensor:
        """The stream buffer (N, C) that ``residual`` does not stand in."""
        first, second = self.work.streams.unbind()
        return second if residual.stream.data_ptr() == first.data_ptr() else first

    def layer(self, layer: LayerWeights, cache: LayerCache, residual: Residual) -> Residual:
        residual = self._norm_qkv(layer, cache, residual)
        self._attend(layer.scale, cache)
        residual = self._project(residual.stream, self.work.attended, layer.attn_proj)
        inner, residual = self._norm_activation(layer, residual)
        return self._project(residual.stream, inner, layer.mlp_proj)

    def _norm_qkv(self, layer: LayerWeights, cache: LayerCache, residual: Residual) -> Residual:
        ops, work, target = self.decoder.operations, self.work, self.other(residual)
        if self.is_fused:
            ops.norm_qkv(residual, target, layer.ln_1, layer.c_attn, self.rows, work.queries, cache)
        else:
            ops.norm(residual, target, layer.ln_1, None, work.normed)
            wide = self._wide(layer.c_attn)
            self._product(work.normed, layer.c_attn, wide)
            ops.scatter(wide, self.rows, work.queries, cache)
        return _summed(residual, target)

    def _attend(self, scale: float, cache: LayerCache) -> None:
        ops, work = self.decoder.operations, self.work
        if self.tiles is None:
            ops.decode_attention(work.queries, cache, self.rows, scale, work.splits, work.attended)
        else:
            ops.prefill_attention(work.queries, cache, self.tiles, scale, work.attended)

    def _norm_activation(self, layer: LayerWeights, residual: Residual) -> tuple[Tensor, Residual]:
        ops, work, target = self.decoder.operations, self.work, self.other(residual)
        activation, wide = self.decoder.config.activation, self._wide(layer.c_fc)
        if self.is_fused:
            ops.norm_activation(residual, target, layer.ln_2, layer.c_fc, activation, wide)
        else:
            ops.norm(residual, target, layer.ln_2, None, work.normed)
            self._product(work.normed, layer.c_fc, wide)
            ops.activate(wide, activation)
        return wide, _summed(residual, target)

    def _project(self, stream: Tensor, x: Tensor, linear: Linear) -> Residual:
        """``stream`` with what the product adds to it."""
        if not self.is_fused:
            self._product(x, linear, self.work.added[0])
            return Residual(stream, self.work.added)
        num_outputs, num_inputs = linear.weight.shape
        num_splits = product_tiles(num_outputs, num_inputs, linear.weight.dtype).num_splits
        shape = (num_splits, self.n, num_outputs)
        partials = self.work.partials[: num_splits * self.n * num_outputs].view(shape)
        self.decoder.operations.split_product(x, linear, partials)
        return Residual(stream, partials)

    def _product(self, x: Tensor, linear: Linear, out: Tensor) -> None:
        """By the matrix library, or by one kernel for any number of rows, so that chunks agree."""
        if self.is_library:
            torch.addmm(linear.rounded_bias, x, linear.weight.t(), out=out)
        else:
            self.decoder.operations.product(x, linear, out)

    def _wide(self, linear: Linear) -> Tensor:
        """(N, M) at the beginning of ``wide``."""
        num_outputs = len(linear.weight)
        return self.work.wide.flatten()[: self.n * num_outputs].view(self.n, num_outputs)


def _summed(residual: Residual, target: Tensor) -> Residual:
    """The residual after its partials were added up into ``target``."""
    if not len(residual.partials):
        return residual
    return Residual(target, residual.partials[:0])


def _cut(work: Workspace, num_rows: int) -> Workspace:
    """The first rows of each buffer; ``partials`` and ``wide`` are cut where they are used."""
    splits = replace(
        work.splits, sums=work.splits.sums[:num_rows], stats=work.splits.stats[:num_rows]
    )
    return replace(
        work,
        streams=work.streams[:, :num_rows],
        added=work.added[:, :num_rows],
        normed=work.normed[:num_rows],
        queries=work.queries[:num_rows],
        attended=work.attended[:num_rows],
        splits=splits,
    )


def query_tiles(spans: Sequence[Span], num_tiles: int) -> Tensor:
    """The table of QueryTiles for spans packed one after the other, on the CPU.

    Padded by empty tiles to ``num_tiles``; :func:`most_query_tiles` says how many are enough.
    Raises ValueError if they do not fit.
    """
    lines, row = [], 0
    for span in spans:
        start = span.start
        while start < span.end:
            end = min(span.end, (start // QUERY_TILE + 1) * QUERY_TILE)
            lines.append((span.slot, row, start, end - start))
            row, start = row + end - start, end
    if len(lines) > num_tiles:
        raise ValueError(f"{len(lines)} tiles of queries do not fit in {num_tiles}")
    lines += [(0, 0, 0, 0)] * (num_tiles - len(lines))
    return torch.tensor(lines, dtype=torch.int32)


def most_query_tiles(num_rows: int, num_spans: int) -> int:
    """Tiles that ``num_rows`` tokens in at most ``num_spans`` spans never exceed."""
    return num_rows // QUERY_TILE + 2 * num_spans
