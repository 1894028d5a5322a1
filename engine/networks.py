"""A checkpoint's tensors become a Network: which dtype, which kernels, packed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from model.config import GPTConfig
from model.decoder import GPT
from model.equalise import equalised_adapter
from model.kernels.decoder import Lookup, NativeDecoder
from model.kernels.native import NativeKernels, NativeMatrix
from model.kernels.packing import padded
from model.linear import pack, pack_quantised
from model.lora import Adapter
from model.network import Network, TorchNetwork, gpt_with
from model.quantised import QuantisedMatrix
from model.quantising import EMBEDDING, HEAD, METHODS, quantise_tensors
from model.slot_cache import KEY_TILE, SlotCache

DTYPES = ("float32", "bfloat16", *METHODS)
KV_DTYPES = ("float32", "bfloat16", "int8")


@dataclass(frozen=True, slots=True)
class Weights:
    """What a checkpoint holds, by name: tensors as they are stored, and quantised matrices.

    A tied head is not among ``tensors``; among ``matrices`` the head is ``lm_head.weight``, and
    where ``tensors`` have no ``wte.weight`` its rows are the embedding. ``adapters`` are what tasks
    have beside the matrices, for spans that name them by their index.
    """

    config: GPTConfig
    tensors: Mapping[str, Tensor]
    matrices: Mapping[str, QuantisedMatrix]
    adapters: Sequence[Adapter] = ()

    def quantised(self, method: str) -> Weights:
        """Quantised as ``method`` says, or as they already are."""
        if self.matrices:
            return self
        plain, matrices = quantise_tensors(self.config, self.tensors, method)
        if self.config.is_head_tied:
            del plain[EMBEDDING]  # the rows of the head, as in a checkpoint that was quantised
        adapters = [equalised_adapter(self.config, self.tensors, one) for one in self.adapters]
        return Weights(self.config, plain, matrices, adapters)


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What a SlotCache is made of, apart from the model. ``kv_dtype`` as chosen_kv_dtype says."""

    num_slots: int
    num_positions: int
    kv_dtype: str = "auto"


def chosen_kv_dtype(kv_dtype: str, dtype: str) -> str:
    """What keys and values are rounded to: with ``auto`` no more than the weights are.

    A batch on a CPU is bound by reading them.
    """
    if kv_dtype != "auto":
        return kv_dtype
    return "int8" if dtype in METHODS else dtype


def slot_bytes(config: GPTConfig, kv_dtype: str, num_positions: int) -> int:
    """Bytes of one slot of a cache in one of KV_DTYPES."""
    scale_bytes = torch.float32.itemsize if kv_dtype == "int8" else 0
    return config.slot_bytes(_torch(kv_dtype).itemsize, num_positions, scale_bytes)


def padded_slot_bytes(
    kv_dtype: str, config: GPTConfig, num_positions: int, kernels: NativeKernels | None
) -> int:
    """The same in the layout that the kernels read."""
    return slot_bytes(config, kv_dtype, padded(num_positions, key_tile(kernels)))


def key_tile(kernels: NativeKernels | None) -> int:
    """Keys side by side in the cache."""
    return 1 if kernels is None else KEY_TILE


def build_network(
    weights: Weights,
    dtype: str,
    kernels: NativeKernels | None,
    shape: CacheShape,
    special: Tensor | None = None,
) -> tuple[Network, SlotCache, str]:
    """The network, its cache, and the name of the path its products take.

    ``special`` (N, C), float32, are the embeddings of the ids behind the vocabulary.
    """
    config = weights.config
    if dtype in METHODS:
        weights = weights.quantised(dtype)
    cache = SlotCache(
        config,
        shape.num_slots,
        shape.num_positions,
        _torch(chosen_kv_dtype(shape.kv_dtype, dtype)),
        key_tile=key_tile(kernels),
    )
    if kernels is not None:
        return _native(weights, dtype, kernels, cache, special), cache, kernels.path
    gpt = _torch_gpt(weights)
    if special is not None:
        table = torch.cat((gpt.wte.weight.detach().float(), special))
        gpt.wte = torch.nn.Embedding(table.shape[0], table.shape[1], device="meta")
        gpt.wte.weight = torch.nn.Parameter(table, requires_grad=False)
    path = pack_quantised(gpt, weights.matrices) if weights.matrices else pack(gpt, _torch(dtype))
    return TorchNetwork(gpt, cache, weights.adapters), cache, f"torch {path}"


def _torch(dtype: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, dtype)
    return found


def _native(
    weights: Weights,
    dtype: str,
    kernels: NativeKernels,
    cache: SlotCache,
    special: Tensor | None,
) -> NativeDecoder:
    """Keeps copies of what it needs as it is: a mapped file would be kept whole for a table."""
    tensors = weights.tensors
    kept = {name: t.clone() for name, t in tensors.items() if not _is_matrix(name)}
    matrices = {
        name: NativeMatrix.from_quantised(matrix, _bias(tensors, name))
        for name, matrix in weights.matrices.items()
    }
    if not matrices:
        # The head's logits are float32 sums of bfloat16 products: nothing is rounded after them.
        matrices = {
            name: NativeMatrix.from_weight(tensor, _bias(tensors, name), _torch(dtype))
            for name, tensor in tensors.items()
            if _is_matrix(name)
        }
        head = tensors.get(HEAD, tensors[EMBEDDING])
        matrices[HEAD] = NativeMatrix.from_weight(head, None, _torch(dtype))
    config, has_table = weights.config, EMBEDDING in kept
    embed: Lookup = (
        partial(_rows, kept[EMBEDDING]) if has_table else partial(kernels.rows, matrices[HEAD])
    )
    return NativeDecoder(
        config,
        embed if special is None else partial(_rows_or_special, embed, special, config.vocab_size),
        kept["wpe.weight"],
        {name: tensor for name, tensor in kept.items() if "ln_" in name},
        matrices,
        kernels,
        cache,
        weights.adapters,
    )


def _bias(tensors: Mapping[str, Tensor], weight_name: str) -> Tensor | None:
    return tensors.get(weight_name.removesuffix("weight") + "bias")


def _is_matrix(name: str) -> bool:
    """Whether a linear layer is packed of this tensor; what else there is, is used as it is."""
    return name == HEAD or (".c_" in name and name.endswith(".weight"))


def _rows(table: Tensor, ids: Tensor) -> Tensor:
    return table[ids].float()


def _rows_or_special(embed: Lookup, special: Tensor, vocab_size: int, ids: Tensor) -> Tensor:
    """Rows of the embedding, and of ``special`` for the ids behind the vocabulary."""
    is_special = ids >= vocab_size
    if not is_special.any():
        return embed(ids)
    rows = embed(ids.clamp(max=vocab_size - 1))
    rows[is_special] = special[ids[is_special] - vocab_size]
    return rows


def _torch_gpt(weights: Weights) -> GPT:
    tensors = dict(weights.tensors)
    if EMBEDDING not in tensors:
        tensors[EMBEDDING] = weights.matrices[HEAD].dequantise()
    is_whole = not weights.matrices  # quantised layers get theirs from pack_quantised
    return gpt_with(weights.config, tensors, is_whole=is_whole)
