"""The first GPT as OpenAI released it: one array of numbers, cut as a list of shapes says.

``params_0.npy``, ``params_1.npy`` and so on hold float32 numbers, of which ``params_shapes.json``
gives the order (openai/finetune-transformer-lm, train.py): positions, tokens, and twelve tensors
a layer. Matrices lie (1, in, out) there. Nothing says how many heads there are; OpenAI's has 12.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.config import ConfigError, GPTConfig
from weights.formats.foreign import ForeignCheckpoint, Hints
from weights.formats.naming import EMBEDDING, MATRICES, POSITIONS
from weights.stored import CheckpointError, expected_shapes

FORMAT = "openai_gpt"
SHAPES = "params_shapes.json"

_HEADER_BYTES = 128
_PARTS = re.compile(r"params_(\d{1,3})\.npy")
_NUM_HEADS = 12
_LAYER = (
    *("attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight", "attn.c_proj.bias"),
    *("ln_1.weight", "ln_1.bias"),
    *("mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"),
    *("ln_2.weight", "ln_2.bias"),
)
_FIRST_C_FC = 2 + _LAYER.index("mlp.c_fc.weight")
# numpy's own reader raises a dozen kinds of errors for a damaged header, which is a line of Python.
_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    rb"\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d{1,12})L?,\), \} *\n"
)

Array = np.ndarray[Any, np.dtype[np.float32]]


def is_openai_gpt(path: Path) -> bool:
    """Whether the directory ``path`` is of this layout, or was meant to be."""
    return (path / SHAPES).is_file() or any(path.glob("params_*.npy"))


def read_openai_gpt(path: Path, hints: Hints) -> ForeignCheckpoint:
    """Read the directory ``path``; tensors are copied. Raises CheckpointError with every problem.

    The number of heads is that of ``hints``, or else 12.
    """
    shapes = _read_shapes(path / SHAPES)
    files, arrays, problems = _open_parts(path)
    try:
        config = _config(shapes, hints)
    except CheckpointError as error:
        raise CheckpointError(problems + error.problems) from error
    names = _names(config.num_layers)
    problems += _shape_problems(config, dict(zip(names, shapes, strict=True)))
    sizes = [math.prod(shape) for shape in shapes]
    stored = sum(map(len, arrays))
    if not problems and stored != sum(sizes):
        problems.append(f"{SHAPES} cuts {sum(sizes):,} numbers, the .npy files hold {stored:,}")
    if problems:
        raise CheckpointError(problems)
    ends = accumulate(sizes, initial=0)
    tensors = {
        name: _tensor(name, _cut(arrays, start, end), shape)
        for name, shape, (start, end) in zip(names, shapes, pairwise(ends), strict=True)
    }
    return ForeignCheckpoint(FORMAT, config, tensors, path, (SHAPES, *files))


def _names(num_layers: int) -> list[str]:
    layers = [f"h.{layer}.{name}" for layer in range(num_layers) for name in _LAYER]
    return [POSITIONS, EMBEDDING, *layers]


def _read_shapes(file: Path) -> list[tuple[int, ...]]:
    try:
        values = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise CheckpointError([f"{file.name} is missing"]) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError([f"{file.name} is not readable as JSON: {error}"]) from error
    if not isinstance(values, list) or not all(map(_is_shape, values)):
        raise CheckpointError([f"{file.name} must be a list of shapes, lists of whole numbers"])
    num_layers, rest = divmod(len(values) - 2, len(_LAYER))
    if num_layers < 1 or rest:
        raise CheckpointError(
            [f"{file.name} must have 2 shapes and {len(_LAYER)} for each layer, got {len(values)}"]
        )
    return [tuple(shape) for shape in values]


def _is_shape(value: object) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 1 for size in value)


def _config(shapes: Sequence[tuple[int, ...]], hints: Hints) -> GPTConfig:
    positions, tokens, first = shapes[0], shapes[1], shapes[_FIRST_C_FC]
    if [len(positions), len(tokens), len(first)] != [2, 2, 3]:
        raise CheckpointError(
            [
                f"{SHAPES} must begin with the shapes of positions and tokens, of two sizes each, "
                f"and have (1, in, out) for a matrix, got {positions}, {tokens} and {first}"
            ]
        )
    try:
        return GPTConfig(
            vocab_size=tokens[0],
            num_positions=positions[0],
            num_channels=tokens[1],
            num_layers=(len(shapes) - 2) // len(_LAYER),
            num_heads=hints.num_heads or _NUM_HEADS,
            num_inner=first[2],
            eos_token_ids=() if hints.eos_token_id is None else (hints.eos_token_id,),
            norm_placement="post",
        )
    except ConfigError as error:
        raise CheckpointError(error.problems) from error


def _shape_problems(config: GPTConfig, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    expected = expected_shapes(config, len(shapes))
    theirs = {
        name: (1, *shape[::-1]) if MATRICES.fullmatch(name) else shape
        for name, shape in expected.items()
    }
    return [
        f"{SHAPES}: {name} has shape {shape}, expected {theirs[name]}"
        for name, shape in shapes.items()
        if shape != theirs[name]
    ]


def _open_parts(path: Path) -> tuple[list[str], list[Array], list[str]]:
    """The .npy files by number, what they hold, memory-mapped, and what is wrong with them."""
    numbers = [int(match[1]) for file in path.iterdir() if (match := _PARTS.fullmatch(file.name))]
    names = [f"params_{number}.npy" for number in range(max(numbers, default=0) + 1)]
    arrays: list[Array] = []
    problems = []
    for name in names:
        try:
            arrays.append(_open_part(path / name))
        except FileNotFoundError:
            problems.append(f"{name} is missing")
        except (OSError, ValueError) as error:
            problems.append(f"{name} cannot be read: {error}")
    return names, arrays, problems


def _open_part(file: Path) -> Array:
    """One dimension of float32 numbers, memory-mapped (numpy.lib.format). Raises ValueError."""
    with file.open("rb") as opened:
        start = opened.read(_HEADER_BYTES)
    major = start[len(_MAGIC)] if start.startswith(_MAGIC) and len(start) > len(_MAGIC) else 0
    first = {1: 10, 2: 12, 3: 12}.get(major, 0)  # 2 or 4 bytes say how long the header is
    length = int.from_bytes(start[8:first], "little")
    header = _HEADER.fullmatch(start[first : first + length]) if first else None
    if header is None:
        raise ValueError("it is not numpy's file of one row of float32 numbers")
    count, found = int(header[1]), file.stat().st_size - first - length
    if found != 4 * count:
        raise ValueError(f"it should hold {4 * count:,} bytes of numbers, and has {found:,}")
    return np.memmap(file, np.dtype("<f4"), "r", first + length, (count,))


def _cut(arrays: Sequence[Array], start: int, end: int) -> Array:
    """Numbers ``start`` to ``end`` of all arrays, as if they were one; copied."""
    parts = []
    offset = 0
    for array in arrays:
        low, high = max(start - offset, 0), min(end - offset, len(array))
        if low < high:
            parts.append(array[low:high])
        offset += len(array)
    return np.concatenate(parts)


def _tensor(name: str, numbers: Array, shape: tuple[int, ...]) -> torch.Tensor:
    tensor = torch.from_numpy(numbers).view(shape)
    if not MATRICES.fullmatch(name):
        return tensor
    return tensor.squeeze(0).t().contiguous()  # (1, in, out) -> (out, in)
