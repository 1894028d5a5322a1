"""Sorted tables of keys and values: LevelDB's file format (``doc/table_format.md``), uncompressed.

    data blocks, metaindex block, index block, footer

Each block has its compression and a checksum behind it. The writers of TensorFlow leave no gap,
and none is accepted here, so that every byte of the file is covered by a checksum or compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from weights.formats.crc32c import masked_crc32c
from weights.formats.protobuf import Malformed, read_varint

_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_FOOTER_LEN = 48
_TRAILER_LEN = 5
_COMPRESSIONS = {1: "Snappy"}

# Keys share prefixes, so a small file can spell out many long ones. No model comes near these.
_MAX_KEYS = 1 << 16
_MAX_KEY_LEN = 1 << 10


class _Handle(NamedTuple):
    """Where a block lies, in bytes; ``size`` is without the trailer."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size + _TRAILER_LEN


def read_table(data: bytes) -> list[tuple[bytes, bytes]]:
    """Every key with its value, in the order of keys, no key twice. Raises Malformed."""
    metaindex, index = _read_footer(data)
    handles = [_read_handle(value, 0)[0] for _, value in _entries(_block(data, index))]
    _check_layout([*handles, metaindex, index], len(data) - _FOOTER_LEN)
    _block(data, metaindex)
    entries: list[tuple[bytes, bytes]] = []
    for handle in handles:
        entries += _entries(_block(data, handle))
        if len(entries) > _MAX_KEYS:
            raise Malformed(f"has more than {_MAX_KEYS:,} keys")
    for (key, _), (following, _) in pairwise(entries):
        if key == following:
            raise Malformed(f"has the key {key!r:.80} twice")
        if key > following:
            raise Malformed(f"has the key {following!r:.80} out of order")
    return entries


def _read_footer(data: bytes) -> tuple[_Handle, _Handle]:
    """Where the metaindex and the index are."""
    if len(data) < _FOOTER_LEN:
        raise Malformed(f"is truncated: {len(data)} bytes, the footer alone has {_FOOTER_LEN}")
    footer = data[-_FOOTER_LEN:]
    if not footer.endswith(_MAGIC):
        raise Malformed("is truncated or no table: it does not end with the magic number")
    metaindex, at = _read_handle(footer, 0)
    index, at = _read_handle(footer, at)
    if footer[at : -len(_MAGIC)].strip(b"\0"):
        raise Malformed("has a malformed footer")
    return metaindex, index


def _read_handle(data: bytes, at: int) -> tuple[_Handle, int]:
    offset, at = read_varint(data, at)
    size, at = read_varint(data, at)
    return _Handle(offset, size), at


def _check_layout(handles: Sequence[_Handle], end: int) -> None:
    expected = 0
    for handle in handles:
        if handle.offset != expected:
            raise Malformed(f"has a block at {handle.offset}, where {expected} was expected")
        expected = handle.end
    if expected != end:
        raise Malformed(f"has a footer at {end}, where {expected} was expected")


def _block(data: bytes, handle: _Handle) -> bytes:
    """The content of a block whose checksum is right."""
    if handle.end > len(data) - _FOOTER_LEN:
        raise Malformed(f"has no room for {handle.size} bytes of a block at {handle.offset}")
    content_end = handle.end - 4
    stored_crc = int.from_bytes(data[content_end : handle.end], "little")
    if masked_crc32c(data[handle.offset : content_end]) != stored_crc:
        raise Malformed(f"is damaged: the checksum of the block at {handle.offset} is wrong")
    compression = data[content_end - 1]
    if compression:
        name = _COMPRESSIONS.get(compression, f"compression {compression}")
        raise Malformed(f"is compressed with {name}, only uncompressed blocks are supported")
    return data[handle.offset : content_end - 1]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys are stored as what differs from the key before; restarts serve only to search."""
    num_restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (num_restarts + 1)
    if end < 0:
        raise Malformed("has a block without room for its restarts")
    at, key, num_keys = 0, b"", 0
    while at < end:
        num_shared, at = read_varint(block, at)
        num_own, at = read_varint(block, at)
        value_len, at = read_varint(block, at)
        value_start = at + num_own
        if num_shared > len(key) or value_start + value_len > end:
            raise Malformed("has a key or a value that runs out of its block")
        key = key[:num_shared] + block[at:value_start]
        at = value_start + value_len
        num_keys += 1
        if len(key) > _MAX_KEY_LEN or num_keys > _MAX_KEYS:
            raise Malformed(f"has over {_MAX_KEYS:,} keys, or one over {_MAX_KEY_LEN:,} bytes")
        yield key, block[value_start:at]
