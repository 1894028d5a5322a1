"""Tensors as they lie in files: looked at without loading; safetensors, loaded memory-mapped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from model.config import GPTConfig
from model.decoder import parameter_shapes

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""The dtypes that weights may be stored in."""

SAFETENSORS_DTYPES: Mapping[torch.dtype, str] = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
}
"""The same dtypes, as safetensors headers spell them."""

STORED_DTYPES: Mapping[torch.dtype, str] = {**SAFETENSORS_DTYPES, torch.uint8: "U8"}
"""Those, and that of quantised matrices."""

NO_DTYPES: Mapping[str, str] = {}

# More rows, channels or layers than any checkpoint has; torch cannot count their product.
_MAX_COUNT = 2**28


class CheckpointError(Exception):
    """A checkpoint that cannot be read or written. ``problems`` lists every reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class TensorSource(Protocol):
    """Tensors by name, in whatever kind of file."""

    @property
    def problems(self) -> list[str]:
        """What could not be opened; the rest can be looked at all the same."""
        ...

    @property
    def owners(self) -> Mapping[str, str]:
        """Tensor name -> name of the file that has it."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        ...

    def dtype(self, name: str) -> str:
        """The dtype of a tensor, F32, BF16 or F16 if it can be stored here."""
        ...

    def load(self, name: str) -> torch.Tensor:
        """The tensor, contiguous."""
        ...


class StoredTensors:
    """The tensors of one or several safetensors files, by name.

    ``problems`` says what could not be opened; the other files can be looked at all the same.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.problems: list[str] = []
        self.owners: dict[str, str] = {}
        self._files: dict[str, Any] = {}
        for path in paths:
            self._open(path)

    def _open(self, path: Path) -> None:
        try:
            handle: Any = safe_open(path, framework="pt")
            names: list[str] = handle.keys()
        except FileNotFoundError:
            self.problems.append(f"{path.name} is missing")
            return
        except (SafetensorError, OSError) as error:
            self.problems.append(f"{path.name} is truncated or not safetensors: {error}")
            return
        self._files[path.name] = handle
        for name in names:
            owner = self.owners.setdefault(name, path.name)
            if owner != path.name:
                self.problems.append(f"tensor {name} is in both {owner} and {path.name}")

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header."""
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The dtype of a tensor as safetensors spells it, from the header."""
        return str(self._slice(name).get_dtype())

    def load(self, name: str) -> torch.Tensor:
        """The tensor, memory-mapped: valid while it lives, read when it is touched."""
        tensor: torch.Tensor = self._files[self.owners[name]].get_tensor(name)
        return tensor

    def _slice(self, name: str) -> Any:
        return self._files[self.owners[name]].get_slice(name)


def expected_shapes(config: GPTConfig, num_stored: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that ``config`` needs.

    Raises CheckpointError for sizes so far from the ``num_stored`` tensors there are that even
    listing the names would take forever.
    """
    if problem := size_problem(config):
        raise CheckpointError([problem])
    if config.num_layers > num_stored:
        raise CheckpointError(
            [f"the configuration has {config.num_layers:,} layers, the files {num_stored} tensors"]
        )
    return parameter_shapes(config)


def size_problem(config: GPTConfig) -> str | None:
    """Which size of ``config`` is beyond what tensors can have, if there is one; but for layers."""
    largest = max(config.vocab_size, config.num_positions, config.num_channels, config.num_inner)
    if largest <= _MAX_COUNT:
        return None
    return f"the configuration has a size over {_MAX_COUNT:,}: {_told(largest)}"


def _told(count: int) -> str:
    """A count as it may stand in a message; Python refuses to spell one of over 4,300 digits."""
    return f"{count:,}" if count < 2**128 else "2**128 or more"


def tensor_problems(
    expected: Mapping[str, tuple[int, ...]],
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, str],
    only: Mapping[str, str] = NO_DTYPES,
) -> list[str]:
    """Every missing, unexpected, mis-shaped or oddly typed tensor, by name.

    ``only`` names the tensors that must have one dtype, and which.
    """
    problems = [f"tensor {name} is missing" for name in expected if name not in shapes]
    problems += [f"unexpected tensor {name}" for name in shapes if name not in expected]
    problems += [
        f"tensor {name} has shape {shapes[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    problems += [
        f"tensor {name} is {dtypes[name]}, expected {dtype}"
        for name, dtype in only.items()
        if name in dtypes and dtypes[name] != dtype
    ]
    return problems + [
        f"tensor {name} is {dtype}, only {', '.join(DTYPES)} are supported"
        for name, dtype in dtypes.items()
        if name in expected and name not in only and dtype not in SAFETENSORS_DTYPES.values()
    ]


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``. Raises CheckpointError."""
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError([f"{path.name} is missing"]) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError([f"{path.name} is not readable as JSON: {error}"]) from error
    if not isinstance(values, dict):
        raise CheckpointError([f"{path.name} must hold an object, not {type(values).__name__}"])
    return values


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hex. Raises CheckpointError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError([f"{path.name} cannot be read: {error.strerror}"]) from error
