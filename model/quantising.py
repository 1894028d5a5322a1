"""A checkpoint's tensors -> quantised matrices, and the few tensors that stay as they are."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from model.config import GPTConfig
from model.equalise import equalise, input_energy, norms_before
from model.quantised import GROUP_LEN, Int4Matrix, Int8Matrix, QuantisedMatrix

Method = Literal["int8", "int4"]

METHODS: tuple[Method, ...] = get_args(Method)

HEAD = "lm_head.weight"
EMBEDDING = "wte.weight"
_KEPT = (EMBEDDING, "wpe.weight")


@torch.no_grad()
def quantise_tensors(
    config: GPTConfig, tensors: Mapping[str, Tensor], method: str
) -> tuple[dict[str, Tensor], dict[str, QuantisedMatrix]]:
    """The tensors that stay, and the matrices by the names of their weights.

    ``tensors`` are those of a checkpoint (decoder.parameter_shapes). The head is quantised to 8
    bits whatever ``method`` is, since 4 cost too much there, and is always called
    ``lm_head.weight``. Embeddings stay in their dtype; norms and biases become float32, and the
    norms are those that fit the matrices (model/equalise.py). Raises ValueError for a shape
    that ``method`` cannot have.
    """
    if problems := method_problems(config, method):
        raise ValueError("; ".join(problems))
    plain: dict[str, Tensor] = {name: tensors[name] for name in _KEPT}
    matrices: dict[str, QuantisedMatrix] = {}
    for part in _parts(config, tensors):
        energies = _energies(config, part, tensors)
        for name, tensor in part.items():
            if name == HEAD:
                matrices[name] = Int8Matrix.quantise(tensor)
            elif tensor.ndim == 1:
                plain[name] = tensor.detach().float()
            elif method == "int4":
                matrices[name] = Int4Matrix.quantise(tensor, energies.get(name))
            else:
                matrices[name] = Int8Matrix.quantise(tensor)
    return plain, matrices


def method_problems(config: GPTConfig, method: str) -> list[str]:
    """Why ``config`` cannot be quantised by ``method``."""
    if method not in METHODS:
        return [f"quantisation must be one of {', '.join(METHODS)}, got {method!r}"]
    sizes = {"num_channels": config.num_channels, "num_inner": config.num_inner}
    return [
        f"int4 needs {name} to be a multiple of {GROUP_LEN}, got {size}"
        for name, size in sizes.items()
        if method == "int4" and size % GROUP_LEN
    ]


def _parts(config: GPTConfig, tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Equalised: one layer at a time, as float32 copies of all of them would be too large."""
    for layer in range(config.num_layers):
        prefix = f"h.{layer}."
        names = [name for name in tensors if name.startswith(prefix)]
        yield equalise(config, {name: tensors[name] for name in names})
    last = {name: tensor for name, tensor in tensors.items() if name.startswith("ln_f.")}
    yield equalise(config, last | {HEAD: tensors.get(HEAD, tensors[EMBEDDING])})


def _energies(
    config: GPTConfig, part: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Of the matrices of ``part`` behind a norm, how much their inputs weigh.

    A norm that is not in the same part, but at the end of the layer before, is as in ``tensors``.
    """
    known = ChainMap({**part}, {**tensors})
    return {
        matrix: input_energy(known[f"{norm}.weight"], known[f"{norm}.bias"])
        for norm, matrix in norms_before(config)
        if matrix in part
    }
