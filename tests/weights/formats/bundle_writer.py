"""Tensor bundles made byte by byte: a test can spoil any part, and the checksums are right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from weights.formats.crc32c import masked_crc32c

Entries = Sequence[tuple[bytes, bytes]]

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
NUMBERS = {
    torch.float32: 1,
    torch.float64: 2,
    torch.int64: 9,
    torch.bfloat16: 14,
    torch.float16: 19,
}


def varint(value: int) -> bytes:
    value %= 1 << 64
    digits = []
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def header(num_shards: int = 1, endianness: int = 0, min_consumer: int = 0) -> bytes:
    version = field(1, 1) + field(2, min_consumer)
    return field(1, num_shards) + field(2, endianness) + field(3, version)


def shape_proto(shape: Iterable[int]) -> bytes:
    return b"".join(field(2, field(1, dim)) for dim in shape)


def entry(
    dtype: int, shape: Iterable[int], shard_id: int, offset: int, num_bytes: int, crc: int = 0
) -> bytes:
    fields = field(1, dtype) + field(2, shape_proto(shape)) + field(3, shard_id)
    fields += field(4, offset) + field(5, num_bytes)
    return fields + varint(6 << 3 | 5) + crc.to_bytes(4, "little")


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def block(entries: Entries, compression: int = 0) -> bytes:
    """With its trailer; keys share what they can, after one restart."""
    content = b""
    last = b""
    for key, value in entries:
        shared = next(
            (i for i, (a, b) in enumerate(zip(last, key, strict=False)) if a != b),
            min(len(last), len(key)),
        )
        content += varint(shared) + varint(len(key) - shared) + varint(len(value))
        content += key[shared:] + value
        last = key
    return signed(content + bytes(4) + (1).to_bytes(4, "little"), compression)


def signed(content: bytes, compression: int = 0) -> bytes:
    content += bytes([compression])
    return content + masked_crc32c(content).to_bytes(4, "little")


def table(*blocks: bytes) -> bytes:
    """A whole file of data blocks that are finished already."""
    data = b"".join(blocks)
    starts = [sum(len(block) for block in blocks[:i]) for i in range(len(blocks))]
    handles = [
        (bytes([i]), varint(start) + varint(len(block) - 5))
        for i, (start, block) in enumerate(zip(starts, blocks, strict=True))
    ]
    meta, index = block([]), block(handles)
    footer = varint(len(data)) + varint(len(meta) - 5)
    footer += varint(len(data) + len(meta)) + varint(len(index) - 5)
    return data + meta + index + footer.ljust(40, b"\0") + MAGIC


def write_bundle(
    index: Path, tensors: Mapping[str, torch.Tensor], *, num_shards: int = 1, gap: int = 0
) -> Path:
    """Write ``index`` and its shards, by turns; ``gap`` bytes lie before each tensor."""
    shards = [b""] * num_shards
    entries = [(b"", header(num_shards))]
    for number, (name, tensor) in enumerate(sorted(tensors.items())):
        shard_id, content = number % num_shards, raw(tensor)
        shards[shard_id] += bytes(gap)
        start, crc = len(shards[shard_id]), masked_crc32c(content)
        shards[shard_id] += content
        dtype = NUMBERS[tensor.dtype]
        value = entry(dtype, tensor.shape, shard_id, start, len(content), crc)
        entries.append((name.encode(), value))
    blocks = [block(entries[start : start + 5]) for start in range(0, len(entries), 5)]
    index.write_bytes(table(*blocks))
    for shard_id, content in enumerate(shards):
        index.with_suffix(f".data-{shard_id:05d}-of-{num_shards:05d}").write_bytes(content)
    return index
