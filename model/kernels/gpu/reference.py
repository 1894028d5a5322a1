"""The operations in plain torch: what the kernels are tested against, and what serves in their
place where Triton does not know the device. A CUDA graph can capture these too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import Activation
from model.kernels.gpu.buffers import (
    Draws,
    LayerCache,
    Linear,
    Norm,
    QueryTiles,
    Residual,
    Rows,
    SplitScratch,
    TileBest,
)
from model.kernels.gpu.reference_sampling import first_largest, noisy, sample
from model.kernels.gpu.tiles import QUERY_TILE

__all__ = [
    "activate",
    "decode_attention",
    "embed",
    "head_draw",
    "logits",
    "norm",
    "norm_activation",
    "norm_qkv",
    "prefill_attention",
    "product",
    "sample",
    "scatter",
    "split_product",
]


def embed(rows: Rows, wte: Tensor, wpe: Tensor, stream: Tensor) -> None:
    """See Operations."""
    torch.add(wte[rows.ids.long()].float(), wpe[rows.positions.long()].float(), out=stream)


def norm(residual: Residual, target: Tensor, norm: Norm, index: Tensor | None, out: Tensor) -> None:
    """See Operations."""
    x = _summed(residual, target)
    x = x if index is None else x[index.long()]  # (N, C) -> (W, C)
    out.copy_(_normed(x, norm))


def norm_qkv(
    residual: Residual,
    target: Tensor,
    norm: Norm,
    linear: Linear,
    rows: Rows,
    queries: Tensor,
    cache: LayerCache,
) -> None:
    """See Operations."""
    scatter(_product(_normed(_summed(residual, target), norm), linear), rows, queries, cache)


def norm_activation(
    residual: Residual,
    target: Tensor,
    norm: Norm,
    linear: Linear,
    activation: Activation,
    out: Tensor,
) -> None:
    """See Operations."""
    x = _product(_normed(_summed(residual, target), norm), linear)
    activate(x, activation)
    out.copy_(x)


def split_product(x: Tensor, linear: Linear, partials: Tensor) -> None:
    """See Operations. The whole sum is in the first of the partials."""
    partials.zero_()
    partials[0] = _product(x, linear)


def product(x: Tensor, linear: Linear, out: Tensor) -> None:
    """See Operations."""
    out.copy_(_product(x, linear))


def scatter(wide: Tensor, rows: Rows, queries: Tensor, cache: LayerCache) -> None:
    """See Operations."""
    query, key, value = wide.chunk(3, dim=-1)  # (N, 3C) -> 3 x (N, C)
    queries.copy_(query)
    shape = (-1, cache.keys.shape[1], cache.keys.shape[3])
    places = (rows.slots.long(), slice(None), rows.positions.long())
    cache.keys[places] = key.reshape(shape).to(cache.keys.dtype)  # (N, C) -> (N, H, D)
    cache.values[places] = value.reshape(shape).to(cache.values.dtype)


def activate(wide: Tensor, activation: Activation) -> None:
    """See Operations."""
    x = wide.float()
    if activation == "gelu_tanh":
        x = F.gelu(x, approximate="tanh")
    elif activation == "gelu_erf":
        x = F.gelu(x)
    elif activation == "relu":
        x = F.relu(x)
    elif activation == "silu":
        x = F.silu(x)
    else:
        x = x.tanh()
    wide.copy_(x)


def decode_attention(
    queries: Tensor,
    cache: LayerCache,
    rows: Rows,
    scale: float,
    splits: SplitScratch,  # noqa: ARG001 - the kernels keep partial sums there
    out: Tensor,
) -> None:
    """See Operations. Gathers slots: for tests and unknown devices, not for speed."""
    tiles = queries.view(len(queries), 1, cache.keys.shape[1], -1)  # (B, C) -> (B, 1, H, D)
    places = rows.positions.long().unsqueeze(1)  # (B, 1)
    out.copy_(_attend(tiles, cache, rows.slots.long(), places, scale).flatten(1))


def prefill_attention(
    queries: Tensor, cache: LayerCache, tiles: QueryTiles, scale: float, out: Tensor
) -> None:
    """See Operations."""
    slots, firsts, positions, lens = tiles.table.long().unbind(1)
    lanes = torch.arange(QUERY_TILE, device=queries.device)
    is_query = lanes < lens.unsqueeze(1)  # (tiles, queries)
    lines = torch.where(is_query, firsts.unsqueeze(1) + lanes, len(queries))
    # One line more takes the queries that a tile does not have.
    padded = F.pad(queries, (0, 0, 0, 1))  # (N, C) -> (N + 1, C)
    heads = (*lines.shape, cache.keys.shape[1], -1)
    places = torch.where(is_query, positions.unsqueeze(1) + lanes, 0)
    found = _attend(padded[lines].view(heads), cache, slots, places, scale)
    whole = torch.zeros_like(padded)
    whole[lines] = found.flatten(2)  # (tiles, queries, C)
    out.copy_(whole[:-1])


def logits(hidden: Tensor, weight: Tensor, out: Tensor, row_tile: int) -> None:  # noqa: ARG001
    """See Operations."""
    torch.matmul(hidden.to(weight.dtype).float(), weight.float().t(), out=out)


def head_draw(
    hidden: Tensor,
    weight: Tensor,
    draws: Draws,
    best: TileBest,  # noqa: ARG001 - the kernels keep each tile's best there
    out: Tensor,
    row_tile: int,
) -> None:
    """See Operations."""
    found = torch.empty((len(hidden), len(weight)), device=hidden.device)
    logits(hidden, weight, found, row_tile)
    out.copy_(first_largest(noisy(found, draws.temperatures, draws)))


def _summed(residual: Residual, target: Tensor) -> Tensor:
    """The stream and its partials, (N, C), also left in ``target``."""
    x = residual.stream.clone()
    for partial in residual.partials:
        x += partial.float()
    if len(residual.partials):
        target.copy_(x)
    return x


def _normed(x: Tensor, norm: Norm) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], norm.gain, norm.bias, norm.epsilon)


def _product(x: Tensor, linear: Linear) -> Tensor:
    """(N, K) -> (N, M) float32, inputs rounded to the weight's dtype."""
    return F.linear(x.to(linear.weight.dtype).float(), linear.weight.float(), linear.bias)


def _attend(
    queries: Tensor, cache: LayerCache, slots: Tensor, places: Tensor, scale: float
) -> Tensor:
    """Queries (X, Q, H, D) at ``places`` (X, Q) of ``slots`` (X) -> (X, Q, H, D), float32.

    What no query may see is replaced, so that NaN there reaches nothing.
    """
    keys, values = cache.keys[slots].float(), cache.values[slots].float()  # (X, H, T, D)
    positions = torch.arange(keys.shape[2], device=queries.device)
    is_written = positions <= places.amax(-1, keepdim=True)  # (X, T)
    keys, values = (torch.where(is_written[:, None, :, None], x, 0.0) for x in (keys, values))
    scores = torch.einsum("xqhd,xhtd->xhqt", queries * scale, keys)
    is_hidden = positions > places.unsqueeze(-1)  # (X, Q, T)
    weights = scores.masked_fill(is_hidden.unsqueeze(1), float("-inf")).softmax(-1)
    return torch.einsum("xhqt,xhtd->xqhd", weights, values)
