"""Quantised matrices in a checkpoint of ours: their names, their sizes, and what is said of them.

Each is two tensors, ``<name of the weight>.packed`` and ``.scales``, exactly as the native
products read them, so that loading is mapping the file. A tied head is stored once, as the head:
the embedding is read from its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from model.config import GPTConfig
from model.kernels.packing import LANES, padded
from model.quantised import GROUP_LEN, INPUT_GROUP, LAYOUT, Int4Matrix, Int8Matrix, QuantisedMatrix
from model.quantising import EMBEDDING, HEAD, METHODS, method_problems
from weights.stored import STORED_DTYPES, expected_shapes

QUANTIZATION = "quantization"
"""The entry of config.json."""

VERSION = 1
PACKED, SCALES = ".packed", ".scales"
_KNOWN: Mapping[str, tuple[object, ...]] = {
    "method": METHODS,
    "layout": (LAYOUT,),
    "version": (VERSION,),
}
_RANKS = {PACKED: 0, SCALES: 1}


def described(method: str) -> dict[str, Any]:
    """What config.json says of a checkpoint that ``method`` quantised."""
    return {"method": method, "layout": LAYOUT, "version": VERSION}


def read_method(values: Mapping[str, Any], config: GPTConfig) -> tuple[str | None, list[str]]:
    """The method, None where nothing is quantised, and the problems of what a config.json says."""
    entry = values.get(QUANTIZATION)
    if entry is None:
        return None, []
    if not isinstance(entry, dict):
        return None, [f"config.json: {QUANTIZATION} must be an object, not {type(entry).__name__}"]
    problems = [
        f"config.json: {QUANTIZATION} has {name} {entry.get(name)!r}, "
        f"only {' and '.join(map(str, choices))} can be opened"
        for name, choices in _KNOWN.items()
        if entry.get(name) not in choices or isinstance(entry.get(name), bool)
    ]
    if problems:
        return None, problems
    method = str(entry["method"])
    return method, [f"config.json: {problem}" for problem in method_problems(config, method)]


def stored_tensors(
    plain: Mapping[str, torch.Tensor], matrices: Mapping[str, QuantisedMatrix]
) -> dict[str, torch.Tensor]:
    """What a file holds, in its order: every packed tensor begins at a multiple of 64 bytes.

    The packed ones come first, since their sizes are such multiples; of the others, wider numbers
    come before narrower ones, so that each is aligned.
    """
    tensors = dict(plain)
    for name, matrix in matrices.items():
        tensors[name + PACKED], tensors[name + SCALES] = matrix.packed, matrix.scales
    return dict(sorted(tensors.items(), key=_place))


def _place(item: tuple[str, torch.Tensor]) -> tuple[int, int, str]:
    name, tensor = item
    return _RANKS.get(name[name.rfind(".") :], len(_RANKS)), -tensor.itemsize, name


def quantised_shapes(
    config: GPTConfig, method: str, num_stored: int
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Name -> shape of every tensor of the file, and the dtypes of those that have only one.

    Raises CheckpointError as :func:`expected_shapes` does.
    """
    shapes = expected_shapes(config, num_stored)
    dtypes: dict[str, str] = {}
    for name, (num_outputs, num_inputs) in matrix_shapes(config, shapes).items():
        shapes.pop(name, None)
        rows = padded(num_outputs, LANES)
        if method == "int4" and name != HEAD:
            num_bytes, num_scales = rows * num_inputs // 2, rows * num_inputs // GROUP_LEN
            dtypes[name + SCALES] = STORED_DTYPES[torch.float16]
        else:
            num_bytes, num_scales = rows * padded(num_inputs, INPUT_GROUP), rows
            dtypes[name + SCALES] = STORED_DTYPES[torch.float32]
        dtypes[name + PACKED] = STORED_DTYPES[torch.uint8]
        shapes |= {name + PACKED: (num_bytes,), name + SCALES: (num_scales,)}
    if config.is_head_tied:
        del shapes[EMBEDDING]
    return shapes, dtypes


def matrix_shapes(
    config: GPTConfig, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, int]]:
    """(N, K) of every matrix that is quantised; ``shapes`` are those of a plain checkpoint."""
    matrices = {
        name: (shape[0], shape[1])
        for name, shape in shapes.items()
        if name.startswith("h.") and len(shape) == 2
    }
    return {**matrices, HEAD: (config.vocab_size, config.num_channels)}


def load_matrices(
    config: GPTConfig, method: str, load: Callable[[str], torch.Tensor], num_stored: int
) -> dict[str, QuantisedMatrix]:
    """The matrices by the names of their weights, from tensors of the right shapes and dtypes."""
    matrices: dict[str, QuantisedMatrix] = {}
    shapes = matrix_shapes(config, expected_shapes(config, num_stored))
    for name, (num_outputs, num_inputs) in shapes.items():
        kind = Int4Matrix if method == "int4" and name != HEAD else Int8Matrix
        matrices[name] = kind(load(name + PACKED), load(name + SCALES), num_outputs, num_inputs)
    return matrices
