"""Tensor bundles: what TensorFlow's Saver (V2) writes, opened without TensorFlow.

``PREFIX.index`` is a sorted table: the key "" holds a BundleHeaderProto, every other key is a
variable's name and holds its BundleEntryProto. Values lie in shards, as they were in memory:
``PREFIX.data-00000-of-00001`` and so on.
Source: tensorflow, core/protobuf/tensor_bundle.proto and core/util/tensor_bundle/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from weights.formats.crc32c import masked_crc32c
from weights.formats.protobuf import Malformed, Message
from weights.formats.sstable import read_table
from weights.stored import SAFETENSORS_DTYPES, CheckpointError

_Bytes = npt.NDArray[np.uint8]

_VERSION = 1
_MAX_INDEX_BYTES = 8 << 20
_MAX_SHARDS = 1_024
_MAX_RANK = 8
_MAX_ELEMENTS = 1 << 60

# types.proto: DataType -> as safetensors spells it.
_DTYPES: Mapping[int, str] = {1: "F32", 2: "F64", 3: "I32", 9: "I64", 14: "BF16", 19: "F16"}
_TORCH_DTYPES: Mapping[str, torch.dtype] = {
    name: dtype for dtype, name in SAFETENSORS_DTYPES.items()
}


@dataclass(frozen=True)
class BundleEntry:
    """One variable as the index describes it."""

    dtype: str
    """As safetensors spells it; ``DataType n`` for what it has no word for."""
    shape: tuple[int, ...]
    shard_id: int
    offset: int
    """Bytes from the start of the shard."""
    num_bytes: int
    masked_crc: int

    @property
    def end(self) -> int:
        """The first byte of the shard behind it."""
        return self.offset + self.num_bytes


@dataclass(frozen=True)
class TensorBundle:
    """A bundle whose index is whole, and whose shards are all there and long enough."""

    index: Path
    shards: tuple[Path, ...]
    entries: Mapping[str, BundleEntry]
    """Variable name -> where its values lie."""

    def load(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The tensors ``names``, each read once, for its checksum.

        They are memory-mapped and to be read only; a file is never written through them.
        Raises CheckpointError naming each that is damaged, or of a dtype that no weight has.
        """
        mapped: dict[int, _Bytes] = {}
        tensors: dict[str, torch.Tensor] = {}
        problems = []
        for name in names:
            entry = self.entries[name]
            shard = self.shards[entry.shard_id]
            if entry.shard_id not in mapped:
                mapped[entry.shard_id] = _map(shard)
            content = mapped[entry.shard_id][entry.offset : entry.end]  # (num_bytes)
            if entry.dtype not in _TORCH_DTYPES:
                problems.append(f"tensor {name} is {entry.dtype}, which is not supported")
            elif masked_crc32c(content) != entry.masked_crc:
                problems.append(f"{shard.name} is damaged: the checksum of tensor {name} is wrong")
            else:
                tensors[name] = _as_tensor(content, entry)
        if problems:
            raise CheckpointError(problems)
        return tensors


def open_bundle(index: Path) -> TensorBundle:
    """Read ``index``, a PREFIX.index, and look at its shards; no value is read.

    Raises CheckpointError listing every problem.
    """
    try:
        table = read_table(_read_index(index))
        header = dict(table).get(b"")
        if header is None:
            raise Malformed("has no header")
        shards = _shards(index, Message(header))
    except Malformed as error:
        raise CheckpointError([f"{index.name} {error}"]) from error
    entries, problems = _read_entries(index, table, len(shards))
    problems += _shard_problems(shards, entries) + _overlap_problems(shards, entries)
    if problems:
        raise CheckpointError(problems)
    return TensorBundle(index, shards, entries)


def _read_index(index: Path) -> bytes:
    try:
        with index.open("rb") as file:
            data = file.read(_MAX_INDEX_BYTES + 1)
    except FileNotFoundError:
        raise CheckpointError([f"{index.name} is missing"]) from None
    except OSError as error:
        raise CheckpointError([f"{index.name} cannot be read: {error.strerror}"]) from error
    if len(data) > _MAX_INDEX_BYTES:
        raise Malformed(f"has over {_MAX_INDEX_BYTES:,} bytes, more than any index")
    return data


def _shards(index: Path, header: Message) -> tuple[Path, ...]:
    """The files that the header says there are. Raises Malformed for what is not supported."""
    num_shards, endianness = header.signed(1), header.signed(2)
    min_consumer = header.message(3).signed(2)
    if endianness:
        raise Malformed("is big-endian, only little-endian values are supported")
    if min_consumer > _VERSION:
        raise Malformed(f"is for readers of version {min_consumer}, this one knows {_VERSION}")
    if not 1 <= num_shards <= _MAX_SHARDS:
        raise Malformed(f"has {num_shards:,} shards, from 1 to {_MAX_SHARDS:,} are supported")
    return tuple(
        index.with_suffix(f".data-{shard_id:05d}-of-{num_shards:05d}")
        for shard_id in range(num_shards)
    )


def _read_entries(
    index: Path, table: Iterable[tuple[bytes, bytes]], num_shards: int
) -> tuple[dict[str, BundleEntry], list[str]]:
    entries: dict[str, BundleEntry] = {}
    problems = []
    for key, value in table:
        if not key:
            continue
        name = key.decode(errors="surrogateescape")  # which is not printable either
        try:
            if not name.isprintable():  # the slices of a partitioned variable have such keys
                raise Malformed("is no variable's name")
            entries[name] = _read_entry(value, num_shards)
        except Malformed as error:
            problems.append(f"{index.name}: tensor {name!r:.80} {error}")
    return entries, problems


def _read_entry(value: bytes, num_shards: int) -> BundleEntry:
    message = Message(value)
    if message.parts(7):
        raise Malformed("is partitioned into slices, which is not supported")
    number = message.signed(1)
    entry = BundleEntry(
        dtype=_DTYPES.get(number, f"DataType {number}"),
        shape=_read_shape(message.message(2)),
        shard_id=message.signed(3),
        offset=message.signed(4),
        num_bytes=message.signed(5),
        masked_crc=message.unsigned(6),
    )
    if not 0 <= entry.shard_id < num_shards:
        raise Malformed(f"lies in shard {entry.shard_id:,}, there are {num_shards:,}")
    if entry.offset < 0 or entry.num_bytes < 0:
        raise Malformed(f"has {entry.num_bytes:,} bytes at {entry.offset:,}")
    dtype = _TORCH_DTYPES.get(entry.dtype)
    if dtype is not None and entry.num_bytes != prod(entry.shape) * dtype.itemsize:
        raise Malformed(f"has {entry.num_bytes:,} bytes, which its shape {entry.shape} has not")
    return entry


def _read_shape(message: Message) -> tuple[int, ...]:
    dims = message.parts(2)
    if message.unsigned(3):
        raise Malformed("has a shape of unknown rank")
    if len(dims) > _MAX_RANK:
        raise Malformed(f"has {len(dims):,} dimensions, at most {_MAX_RANK} are supported")
    shape = tuple(Message(dim).signed(1) for dim in dims)
    # Zeros count as ones here: torch multiplies the others to lay out even an empty tensor.
    if min(shape, default=0) < 0 or prod(max(dim, 1) for dim in shape) > _MAX_ELEMENTS:
        raise Malformed(f"has the impossible shape {shape}")
    return shape


def _shard_problems(shards: tuple[Path, ...], entries: Mapping[str, BundleEntry]) -> list[str]:
    """A line for each shard that is not there, or too short for what lies in it."""
    last = [(0, "")] * len(shards)
    for name, entry in entries.items():
        last[entry.shard_id] = max(last[entry.shard_id], (entry.end, name))
    problems = []
    for shard, (end, name) in zip(shards, last, strict=True):
        num_bytes = _file_len(shard)
        if num_bytes is None:
            problems.append(f"{shard.name} is missing")
        elif num_bytes < end:
            problems.append(
                f"{shard.name} is truncated: {num_bytes:,} bytes, tensor {name} ends at {end:,}"
            )
    return problems


def _file_len(path: Path) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def _overlap_problems(shards: tuple[Path, ...], entries: Mapping[str, BundleEntry]) -> list[str]:
    """Tensors that share bytes: a small file could claim to hold a large model."""
    placed = sorted(
        (entry.shard_id, entry.offset, entry.end, name)
        for name, entry in entries.items()
        if entry.num_bytes
    )
    return [
        f"{shards[shard_id].name}: tensors {name} and {other_name} overlap"
        for (shard_id, _, end, name), (other_id, start, _, other_name) in pairwise(placed)
        if shard_id == other_id and start < end
    ]


def _map(shard: Path) -> _Bytes:
    try:
        if not shard.stat().st_size:  # nothing to map, and mmap refuses to
            return np.empty(0, np.uint8)
        # Copy on write: torch warns of arrays that it could not write to.
        return np.memmap(shard, np.uint8, "c")
    except (OSError, ValueError) as error:
        raise CheckpointError([f"{shard.name} cannot be mapped: {error}"]) from error


def _as_tensor(content: _Bytes, entry: BundleEntry) -> torch.Tensor:
    dtype = _TORCH_DTYPES[entry.dtype]
    if not entry.num_bytes:
        return torch.empty(entry.shape, dtype=dtype)
    if entry.offset % dtype.itemsize:  # behind a string, say
        content = content.copy()
    return torch.from_numpy(content).view(dtype).reshape(entry.shape)
