"""Writing a safetensors file so that what is on disk is known to be what was meant."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from weights.stored import STORED_DTYPES, CheckpointError, StoredTensors

_ALIGNMENT_BYTES = 64
"""Where the first tensor begins: at a line of the processor's cache. The format asks for 8."""

_LENGTH_BYTES = 8
_CHUNK_BYTES = 1 << 26


@dataclass
class Progress:
    """Bytes handled so far, told to whoever asked. Every tensor counts once a pass."""

    tell: Callable[[int, int], None] | None
    total_bytes: int
    done_bytes: int = 0

    def advance(self, num_bytes: int) -> None:
        """Note ``num_bytes`` more."""
        self.done_bytes += num_bytes
        if self.tell is not None:
            self.tell(self.done_bytes, self.total_bytes)


def nonfinite_problems(tensors: Mapping[str, torch.Tensor], progress: Progress) -> list[str]:
    """Every tensor that has a NaN or an infinity, with how many."""
    problems = []
    for name, tensor in tensors.items():
        count = tensor.numel() - int(torch.isfinite(tensor).sum())
        if count:
            problems.append(f"tensor {name} has {count:,} values that are NaN or infinite")
        progress.advance(tensor.nbytes)
    return problems


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor], progress: Progress) -> str:
    """Write, flush to disk, read back and compare bit for bit. Returns the file's sha256.

    Raises OSError, or CheckpointError naming the tensors that came back different.
    """
    with path.open("xb") as file:
        digest = _write_tensors(file, tensors, progress)
        file.flush()
        os.fsync(file.fileno())
    stored = StoredTensors([path])
    if stored.problems:
        raise CheckpointError(stored.problems)
    differing = []
    for name, tensor in tensors.items():
        if not _is_same(stored.load(name), tensor):
            differing.append(f"tensor {name} came back different from what was written")
        progress.advance(tensor.nbytes)
    if differing:
        raise CheckpointError(differing)
    return digest


def _write_tensors(file: BinaryIO, tensors: Mapping[str, torch.Tensor], progress: Progress) -> str:
    digest = hashlib.sha256()
    header = _header(tensors)
    file.write(header)
    digest.update(header)
    for tensor in tensors.values():
        content = _raw(tensor).numpy().data
        for start in range(0, len(content), _CHUNK_BYTES):
            chunk = content[start : start + _CHUNK_BYTES]
            file.write(chunk)
            digest.update(chunk)
            progress.advance(len(chunk))
    return digest.hexdigest()


def _header(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Length and JSON of the safetensors header (huggingface/safetensors, README: Format)."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        dtype = STORED_DTYPES[tensor.dtype]
        entries[name] = {"dtype": dtype, "shape": [*tensor.shape], "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH_BYTES + len(text)) % _ALIGNMENT_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _raw(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, (num_bytes) uint8."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _is_same(stored: torch.Tensor, meant: torch.Tensor) -> bool:
    same = stored.dtype == meant.dtype and stored.shape == meant.shape
    return same and torch.equal(_raw(stored), _raw(meant))
