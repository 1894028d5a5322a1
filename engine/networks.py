"""A checkpoint's tensors become a Network: which dtype, which kernels, packed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from model.config import GPTConfig
from model.decoder import GPT
from model.kernels.decoder import Lookup, NativeDecoder
from model.kernels.native import NativeKernels, NativeMatrix
from model.linear import pack, pack_quantised
from model.network import Network, TorchNetwork, gpt_with
from model.quantised import QuantisedMatrix
from model.quantising import EMBEDDING, HEAD, METHODS, quantise_tensors
from model.slot_cache import KEY_TILE, SlotCache

DTYPES = ("float32", "bfloat16", *METHODS)


@dataclass(frozen=True, slots=True)
class Weights:
    """What a checkpoint holds, by name: tensors as they are stored, and quantised matrices.

    A tied head is not among ``tensors``; among ``matrices`` the head is ``lm_head.weight``, and
    where ``tensors`` have no ``wte.weight`` its rows are the embedding.
    """

    config: GPTConfig
    tensors: Mapping[str, Tensor]
    matrices: Mapping[str, QuantisedMatrix]

    def quantised(self, method: str) -> Weights:
        """Quantised as ``method`` says, or as they already are."""
        if self.matrices:
            return self
        plain, matrices = quantise_tensors(self.config, self.tensors, method)
        return Weights(self.config, plain, matrices)


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What a SlotCache is made of, apart from the model."""

    num_slots: int
    num_positions: int


def cache_dtype(dtype: str) -> torch.dtype:
    """Keys and values are float32 for float32, else bfloat16: a batch is bound by reading them."""
    return torch.float32 if dtype == "float32" else torch.bfloat16


def key_tile(kernels: NativeKernels | None) -> int:
    """Keys side by side in the cache."""
    return 1 if kernels is None else KEY_TILE


def build_network(
    weights: Weights, dtype: str, kernels: NativeKernels | None, shape: CacheShape
) -> tuple[Network, SlotCache, str]:
    """The network, its cache, and the name of the path its products take."""
    config = weights.config
    if dtype in METHODS:
        weights = weights.quantised(dtype)
    cache = SlotCache(
        config,
        shape.num_slots,
        shape.num_positions,
        cache_dtype(dtype),
        key_tile=key_tile(kernels),
    )
    if kernels is not None:
        return _native(weights, dtype, kernels, cache), cache, kernels.path
    gpt = _torch_gpt(weights)
    path = pack_quantised(gpt, weights.matrices) if weights.matrices else pack(gpt, _torch(dtype))
    return TorchNetwork(gpt, cache), cache, f"torch {path}"


def _torch(dtype: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, dtype)
    return found


def _native(
    weights: Weights, dtype: str, kernels: NativeKernels, cache: SlotCache
) -> NativeDecoder:
    tensors = weights.tensors
    matrices = {
        name: NativeMatrix.from_quantised(matrix, _bias(tensors, name))
        for name, matrix in weights.matrices.items()
    }
    if not matrices:
        # The head's logits are float32 sums of bfloat16 products: nothing is rounded after them.
        matrices = {
            name: NativeMatrix.from_weight(tensor, _bias(tensors, name), _torch(dtype))
            for name, tensor in tensors.items()
            if ".c_" in name and name.endswith(".weight")
        }
        head = tensors.get(HEAD, tensors[EMBEDDING])
        matrices[HEAD] = NativeMatrix.from_weight(head, None, _torch(dtype))
    return NativeDecoder(
        weights.config,
        _lookup(weights),
        tensors["wpe.weight"],
        {name: tensor for name, tensor in tensors.items() if "ln_" in name},
        matrices,
        kernels,
        cache,
    )


def _bias(tensors: Mapping[str, Tensor], weight_name: str) -> Tensor | None:
    return tensors.get(weight_name.removesuffix("weight") + "bias")


def _lookup(weights: Weights) -> Lookup:
    """The embedding's own table; without one, the rows of a quantised head."""
    if EMBEDDING in weights.tensors:
        return partial(_rows, weights.tensors[EMBEDDING])
    return weights.matrices[HEAD].rows


def _rows(table: Tensor, ids: Tensor) -> Tensor:
    return table[ids].float()


def _torch_gpt(weights: Weights) -> GPT:
    tensors = dict(weights.tensors)
    if EMBEDDING not in tensors:
        tensors[EMBEDDING] = weights.matrices[HEAD].dequantise()
    is_whole = not weights.matrices  # quantised layers get theirs from pack_quantised
    return gpt_with(weights.config, tensors, is_whole=is_whole)
