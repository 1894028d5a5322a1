"""A checkpoint's weights quantised, and what that costs: measured before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from model.config import GPTConfig
from model.equalise import norms_before
from model.fidelity import Fidelity, first_id, measure
from model.linear import has_packed_kernels, pack, pack_quantised
from model.network import TorchNetwork, gpt_with
from model.quantised import QuantisedMatrix
from model.quantising import EMBEDDING, HEAD, quantise_tensors
from model.slot_cache import SlotCache

QUALITY = "quality"
"""The entry of source.json."""

NUM_SEQUENCES = 8
MAX_TOKENS = 64

Tensors = Mapping[str, torch.Tensor]
Matrices = Mapping[str, QuantisedMatrix]


@dataclass(frozen=True, slots=True)
class Quality:
    """What quantising cost.

    An error is that of a matrix behind its norm, as a share of the matrix's own size (Frobenius
    norm): the median, and the largest with the name of its weight.
    """

    fidelity: Fidelity
    num_tokens: int
    median_error: float
    largest_error: float
    largest_name: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as written to source.json."""
        return {
            "log_loss": round(self.fidelity.log_loss, 4),
            "log_loss_rise": round(self.fidelity.rise, 6),
            "num_tokens": self.num_tokens,
            "relative_error": {
                "median": round(self.median_error, 5),
                "largest": round(self.largest_error, 5),
                "largest_of": self.largest_name,
            },
        }


def quantise(
    config: GPTConfig, tensors: Tensors, method: str
) -> tuple[dict[str, torch.Tensor], dict[str, QuantisedMatrix], Quality]:
    """What a quantised checkpoint holds: the plain rest, the matrices; and what it costs.

    Where the head is tied, its rows are the embedding, which is then not among the rest. Raises
    ValueError for a shape that ``method`` cannot have.
    """
    plain, matrices = quantise_tensors(config, tensors, method)
    if config.is_head_tied:
        del plain[EMBEDDING]
    errors = matrix_errors(config, tensors, plain, matrices)
    largest_name = max(errors, key=errors.__getitem__)
    num_tokens = min(MAX_TOKENS, config.num_positions)
    fidelity = _fidelity(config, tensors, (plain, matrices), num_tokens)
    middle = median(errors.values())
    count = NUM_SEQUENCES * num_tokens
    return plain, matrices, Quality(fidelity, count, middle, errors[largest_name], largest_name)


@torch.inference_mode()
def matrix_errors(
    config: GPTConfig, tensors: Tensors, plain: Tensors, matrices: Matrices
) -> dict[str, float]:
    """The relative error of each matrix, multiplied with the gain of the norm before it."""
    norm_of = {matrix: f"{norm}.weight" for norm, matrix in norms_before(config)}
    errors = {}
    for name, matrix in matrices.items():
        meant = tensors.get(name, tensors[EMBEDDING]).float()
        found = matrix.dequantise()
        if norm := norm_of.get(name):
            meant, found = meant * tensors[norm].float(), found * plain[norm]
        errors[name] = float((found - meant).norm() / meant.norm().clamp(min=1e-30))
    return errors


def _fidelity(
    config: GPTConfig, tensors: Tensors, quantised: tuple[Tensors, Matrices], num_tokens: int
) -> Fidelity:
    plain, matrices = quantised
    reference = gpt_with(config, tensors)
    pack(reference, torch.float32, has_packed_kernels(torch.float32))
    embedding = {EMBEDDING: matrices[HEAD].dequantise()} if config.is_head_tied else {}
    candidate = gpt_with(config, {**embedding, **plain}, is_whole=False)
    pack_quantised(candidate, matrices)
    first, second = (
        TorchNetwork(gpt, SlotCache(config, NUM_SEQUENCES, num_tokens))
        for gpt in (reference, candidate)
    )
    return measure(first, second, first_id(config), num_tokens, NUM_SEQUENCES)
