"""What torch.save wrote, opened by torch's weights-only unpickler: nothing in a file is executed.

A file of today is a zip of uncompressed records, which is memory-mapped; torch does not compare
their checksums then, so that is done here. A file from before torch 1.6 has no checksums.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from weights.stored import SAFETENSORS_DTYPES, CheckpointError

_ZIP_MAGIC = b"PK\x03\x04"
_GLOBAL = re.compile(r"\bGLOBAL (\S+)")
_ADVICE = re.compile(r".*WeightsUnpickler error:", re.DOTALL)
_MAX_REASON_LEN = 160


class PickledTensors:
    """The tensors of files of torch.save by name, with the interface of ``StoredTensors``.

    ``problems`` names what is not a plain dense tensor as well.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.owners: dict[str, str] = {}
        self._tensors: dict[str, torch.Tensor] = {}

    def add(self, owner: str, values: object) -> None:
        """Take the state dict ``values``, which the file ``owner`` has."""
        if not isinstance(values, Mapping):
            kind = type(values).__name__
            self.problems.append(f"{owner} must hold tensors by name, not {kind}")
            return
        for name, value in values.items():
            oddity = _oddity(value)
            if not isinstance(name, str):
                self.problems.append(f"{owner} has an entry {name!r:.80}, which is no name")
            elif oddity is not None:
                self.problems.append(f"{owner}: {name} {oddity}")
            elif self.owners.setdefault(name, owner) != owner:
                self.problems.append(f"tensor {name} is in both {self.owners[name]} and {owner}")
            else:
                self._tensors[name] = value

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> str:
        """The dtype of a tensor, as safetensors spells it or else as torch does."""
        dtype = self._tensors[name].dtype
        return SAFETENSORS_DTYPES.get(dtype, str(dtype))

    def load(self, name: str) -> torch.Tensor:
        """The tensor, contiguous; memory-mapped if it is stored so, in a zip."""
        return self._tensors[name].detach().resolve_neg().contiguous()


def read_pickled_tensors(paths: Iterable[Path]) -> PickledTensors:
    """The tensors of several files, each a state dict."""
    tensors = PickledTensors()
    for path in paths:
        try:
            tensors.add(path.name, read_torch_file(path))
        except CheckpointError as error:
            tensors.problems += error.problems
    return tensors


def read_torch_file(path: Path) -> object:
    """What torch.save was given, as far as it is made of tensors and plain values.

    Raises CheckpointError with one problem: missing, damaged, or with anything else in it.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
    except FileNotFoundError:
        raise CheckpointError([f"{path.name} is missing"]) from None
    except OSError as error:
        raise CheckpointError([f"{path.name} cannot be read: {error.strerror}"]) from error
    if is_zip:
        _check_zip(path)
    return _unpickle(path, is_zip)


def _check_zip(path: Path) -> None:
    """Compare every record with its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            problem = _record_problem(archive.infolist(), path.stat().st_size)
            damaged = None if problem else archive.testzip()
    except Exception as error:  # whatever the bytes lead to
        raise CheckpointError([f"{path.name} is truncated or damaged: {error}"]) from error
    if problem is not None:
        raise CheckpointError([f"{path.name}: {problem}"])
    if damaged is not None:
        raise CheckpointError(
            [f"{path.name} is damaged: record {damaged!r:.80} differs from its checksum"]
        )


def _record_problem(records: Iterable[zipfile.ZipInfo], file_len: int) -> str | None:
    """Why reading the records could take longer than their bytes do, or bring other ones."""
    num_bytes = 0
    for record in records:
        # Mapped as it lies, a compressed record would be taken for numbers.
        if record.compress_type != zipfile.ZIP_STORED:
            return f"record {record.filename!r:.80} is compressed; save it again"
        num_bytes += record.file_size
    if num_bytes > file_len:
        return f"its records have {num_bytes:,} bytes, the whole file {file_len:,}"
    return None


def _unpickle(path: Path, is_zip: bool) -> object:
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is refused below, or not even looked at
            # Only a path can be mapped; of a path, torch also looks at the ending.
            source = path if is_zip else file
            return torch.load(source, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # the unpickler raises whatever the bytes lead to
        raise CheckpointError([f"{path.name} {_reason(error)}"]) from error


def _reason(error: Exception) -> str:
    """One line. What torch says runs to ten, and advises to execute the pickle."""
    text = str(error)
    forbidden = _GLOBAL.search(text)
    if forbidden is not None:
        return (
            f"is a pickle that names {forbidden[1]:.80}, which is never executed: "
            f"only tensors and plain values are read"
        )
    lines = _ADVICE.sub("", text).split("\n")
    line = next((line.strip() for line in lines if line.strip()), type(error).__name__)
    return f"is truncated, damaged or not a file of torch.save: {line:.{_MAX_REASON_LEN}}"


def _oddity(value: object) -> str | None:
    """Why ``value`` is no plain dense tensor in memory; None for one that is."""
    if not isinstance(value, torch.Tensor):
        return f"is no tensor but {type(value).__name__}"
    is_dense = value.layout is torch.strided and not value.is_nested and not value.is_quantized
    if type(value) not in {torch.Tensor, nn.Parameter} or not is_dense:
        kind = "nested" if value.is_nested else str(value.layout)
        return f"is no plain dense tensor but {type(value).__name__}, {kind}, {value.dtype}"
    if value.device.type != "cpu":
        return f"has no values, it is on device {value.device.type}"
    # A handful of bytes can be shaped to fill any memory.
    if value.nbytes > value.untyped_storage().nbytes():
        return "is larger than what is stored of it"
    return None
