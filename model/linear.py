"""Linear layers for serving: packed once at load, the same bits for a row whatever the batch.

Training uses plain ``nn.Linear``; :func:`pack` replaces them before serving. Every product here
is batch-invariant: a row's result depends on neither the number of rows nor its place
among them. Where the library's own kernel does not keep that, rows go through it in tiles of a
fixed height instead. Quantised layers add up whole numbers, which is exact in any order
(model/quantised_linear.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.activation import TiledActivation
from model.decoder import GPT
from model.quantised import Int4Matrix, QuantisedMatrix
from model.quantised_linear import quantised_linear

TILE_ROWS = 16
"""Rows of the fixed-height products behind :class:`TiledLinear`."""

K_BLOCK = 1024
"""Inputs that oneDNN adds up at once; a lone bfloat16 row with more is not cut in blocks."""


class RowProduct(Protocol):
    """(N, K) -> (N, M) in the layer's own dtype."""

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply every row with the weights and add the bias."""
        ...


class TiledLinear(nn.Module):
    """The plain reference: ``F.linear`` on exactly TILE_ROWS rows at a time."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.register_buffer("weight", weight.detach().to(dtype).contiguous(), persistent=False)
        self.register_buffer(
            "bias", None if bias is None else bias.detach().to(dtype), persistent=False
        )
        self.weight: Tensor
        self.bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """(N, K) -> (N, M)."""
        x = x.to(self.dtype)
        num_rows = x.shape[0]
        x = F.pad(x, (0, 0, 0, -num_rows % TILE_ROWS))
        tiles = [F.linear(tile, self.weight, self.bias) for tile in torch.split(x, TILE_ROWS)]
        return torch.cat(tiles)[:num_rows]


class PackedLinear(nn.Module):
    """A oneDNN product on weights reordered once for its kernels.

    ``F.linear`` reorders float32 weights on every call and is 1.2 to 3 times slower. The
    operators are private to torch, which is why torch is pinned to a range and
    :class:`TiledLinear` stands beside. A single row takes another kernel than many, which adds
    in another order in float32 and beyond K_BLOCK inputs: it is computed as the first of
    ``min_rows``.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        is_one_safe = dtype == torch.bfloat16 and weight.shape[1] <= K_BLOCK
        self.min_rows = 1 if is_one_safe else 2
        plain = weight.detach().to(dtype).contiguous()
        self._packed = _mkldnn("_reorder_linear_weight")(plain, None)
        self._bias = None if bias is None else bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(N, K) -> (N, M)."""
        x = x.to(self.dtype)
        num_rows = x.shape[0]
        if num_rows < self.min_rows:
            x = F.pad(x, (0, 0, 0, self.min_rows - num_rows))
        out: Tensor = _mkldnn("_linear_pointwise")(x, self._packed, self._bias, "none", [], "")
        return out[:num_rows]


def _mkldnn(name: str) -> Callable[..., Tensor]:
    """One of torch's private oneDNN operators."""
    operator: Callable[..., Tensor] = getattr(torch.ops.mkldnn, name)
    return operator


def has_packed_kernels(dtype: torch.dtype) -> bool:
    """Whether this processor and build of torch have the oneDNN products for ``dtype``."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.bfloat16:
        return bool(_mkldnn("_is_mkldnn_bf16_supported")())
    return dtype == torch.float32


def is_batch_invariant(product: RowProduct, num_inputs: int) -> bool:
    """Try whether rows computed alone and in small batches equal those of a batch of 64.

    The inputs' second half is the first with its sign turned. Weights whose halves are twins
    (:func:`with_twin_halves`) then leave nothing but rounding errors, so that another order of
    adding shows even after the result is rounded to bfloat16, which else hides nearly all of it.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, num_inputs, generator=generator)
    half = num_inputs // 2
    x[:, half : 2 * half] = -x[:, :half]
    whole = product(x)
    slices = (slice(0, 1), slice(5, 6), slice(3, 5), slice(1, 8), slice(2, 19), slice(9, 49))
    return all(torch.equal(product(x[rows]), whole[rows]) for rows in slices)


def with_twin_halves(weight: Tensor) -> Tensor:
    """(M, K) -> (M, K): the second half of the inputs weighs what the first does."""
    half = weight.shape[1] // 2
    twins = weight.detach().clone()
    twins[:, half : 2 * half] = twins[:, :half]
    return twins


def pack(gpt: GPT, dtype: torch.dtype, is_packed: bool | None = None) -> str:
    """Replace every linear layer of ``gpt`` by its serving form, in place.

    ``is_packed`` None takes the packed products where this machine has them and they prove
    batch-invariant. The head computes in float32 whatever ``dtype`` is (see GPT.logits).
    Returns the name of the path taken: ``packed`` or ``tiled``.
    """
    if is_packed is None:
        is_packed = _may_pack(gpt, dtype)
    kind = PackedLinear if is_packed else TiledLinear
    for _, owner, name in _layer_linears(gpt):
        linear = getattr(owner, name)
        setattr(owner, name, kind(linear.weight, linear.bias, dtype))
    gpt.lm_head = kind(gpt.lm_head.weight, None, torch.float32)  # type: ignore[assignment]
    _tile_activations(gpt)
    return "packed" if is_packed else "tiled"


def pack_quantised(gpt: GPT, matrices: Mapping[str, QuantisedMatrix]) -> str:
    """Replace the linear layers whose weights' names are in ``matrices``, in place.

    Biases stay; the head is called ``lm_head.weight``, tied or not. Returns the name of the path
    taken: ``int4`` if one of the matrices has 4 bits, otherwise ``int8``.
    """
    for weight_name, owner, name in (
        *_layer_linears(gpt),
        ("lm_head.weight", gpt, "lm_head"),
    ):
        if matrix := matrices.get(weight_name):
            setattr(owner, name, quantised_linear(matrix, getattr(owner, name).bias))
    _tile_activations(gpt)
    has_int4 = any(isinstance(matrix, Int4Matrix) for matrix in matrices.values())
    return "int4" if has_int4 else "int8"


def _tile_activations(gpt: GPT) -> None:
    for layer in gpt.layers:
        layer.mlp.activation = TiledActivation(layer.mlp.activation)


def _layer_linears(gpt: GPT) -> Iterator[tuple[str, nn.Module, str]]:
    """The name of the weight, the owner and the attribute of each linear layer but the head."""
    for index, layer in enumerate(gpt.layers):
        yield f"h.{index}.attn.c_attn.weight", layer.attn, "c_attn"
        yield f"h.{index}.attn.c_proj.weight", layer.attn, "c_proj"
        yield f"h.{index}.mlp.c_fc.weight", layer.mlp, "c_fc"
        yield f"h.{index}.mlp.c_proj.weight", layer.mlp, "c_proj"


def _may_pack(gpt: GPT, dtype: torch.dtype) -> bool:
    """Whether the packed products of this model's shapes are there and batch-invariant."""
    if not (has_packed_kernels(dtype) and has_packed_kernels(torch.float32)):
        return False
    layer = gpt.layers[0]
    linears = (layer.attn.c_attn, layer.attn.c_proj, layer.mlp.c_fc, layer.mlp.c_proj)
    return all(
        is_batch_invariant(PackedLinear(with_twin_halves(x.weight), None, dtype), x.in_features)
        for x in linears
    ) and is_batch_invariant(  # float32 hides nothing
        PackedLinear(gpt.lm_head.weight, None, torch.float32), gpt.lm_head.in_features
    )
