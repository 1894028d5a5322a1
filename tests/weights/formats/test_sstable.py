"""Sorted tables: one that TensorFlow wrote, ones made here, and every way to be none."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.weights.formats import bundle_writer as bundles
from weights.formats.protobuf import Malformed
from weights.formats.sstable import read_table

INDEX = Path(__file__).resolve().parents[2] / "fixtures/tf_gpt2/released/model.ckpt.index"
FAR = 1 << 62


def flipped(content: bytes, at: int) -> bytes:
    """One bit of the byte at ``at`` the other way round."""
    return content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]


def test_what_tensorflow_wrote() -> None:
    keys = [key for key, _ in read_table(INDEX.read_bytes())]
    assert len(keys) == 29
    assert keys[:2] == [b"", b"model/h0/attn/c_attn/b"]
    assert keys[-1] == b"model/wte"


@settings(max_examples=50)
@given(st.dictionaries(st.binary(max_size=6), st.binary(max_size=9)), st.integers(1, 4))
def test_what_was_written_is_read(written: dict[bytes, bytes], block_len: int) -> None:
    entries = sorted(written.items())
    parts = [entries[start : start + block_len] for start in range(0, len(entries), block_len)]
    assert read_table(bundles.table(*(bundles.block(part) for part in parts))) == entries


def test_every_byte_is_guarded() -> None:
    content = INDEX.read_bytes()
    for at in range(len(content)):
        with pytest.raises(Malformed):
            read_table(flipped(content, at))


def test_truncated_anywhere() -> None:
    content = INDEX.read_bytes()
    for length in range(len(content)):
        with pytest.raises(Malformed, match="is truncated"):
            read_table(content[:length])


def restarts(num_restarts: int) -> bytes:
    return bundles.signed(num_restarts.to_bytes(4, "little"))


def one_entry(num_shared: int, num_own: int, value_len: int) -> bytes:
    """A block with one entry, of which only the three numbers are there."""
    numbers = b"".join(bundles.varint(n) for n in (num_shared, num_own, value_len))
    return bundles.signed(numbers + bytes(4) + (1).to_bytes(4, "little"))


def empty_entries(num_entries: int) -> bytes:
    return bundles.signed(bytes(3 * num_entries) + bytes(4) + (1).to_bytes(4, "little"))


def footer(*numbers: int) -> bytes:
    return b"".join(bundles.varint(n) for n in numbers).ljust(40, b"\0") + bundles.MAGIC


A, B, TWO = (b"a", b"1"), (b"b", b"2"), bundles.table(bundles.block([(b"a", b"1"), (b"b", b"2")]))

REFUSED: Mapping[str, tuple[bytes, str]] = {
    "nothing": (b"", "is truncated: 0 bytes"),
    "magic": (bytes(100), "does not end with the magic number"),
    "Snappy": (bundles.table(bundles.block([A], 1)), "is compressed with Snappy"),
    "another": (bundles.table(bundles.block([A], 9)), "is compressed with compression 9"),
    "twice": (bundles.table(bundles.block([A, A])), "has the key b'a' twice"),
    "twice in two blocks": (
        bundles.table(bundles.block([A, B]), bundles.block([B])),
        "has the key b'b' twice",
    ),
    "order": (bundles.table(bundles.block([B, A])), "has the key b'a' out of order"),
    "a long key": (bundles.table(bundles.block([(b"a" * 1_025, b"")])), "over 1,024 bytes"),
    "many keys": (bundles.table(empty_entries(65_537)), "over 65,536 keys"),
    "many keys in two blocks": (
        bundles.table(*[empty_entries(40_000)] * 2),
        "more than 65,536 keys",
    ),
    "restarts": (bundles.table(restarts(5)), "room for its restarts"),
    "no restarts": (bundles.table(bundles.signed(b"")), "room for its restarts"),
    "shared": (bundles.table(one_entry(1, 0, 0)), "runs out of its block"),
    "own": (bundles.table(one_entry(0, FAR, 0)), "runs out of its block"),
    "value": (bundles.table(one_entry(0, 0, 5)), "runs out of its block"),
    "no end of a number": (
        bundles.table(bundles.signed(b"\xff" * 40 + bytes(8))),
        "a number of more than 64 bits",
    ),
    "no end of a handle": (TWO[:-48] + b"\xff" * 40 + bundles.MAGIC, "more than 64 bits"),
    "a gap": (b"\0" + TWO, "checksum of the block"),
    "a gap before the footer": (
        TWO[:-48] + b"\0" + TWO[-48:],
        f"has a footer at {len(TWO) - 47}, where {len(TWO) - 48} was expected",
    ),
    "a block far out": (TWO[:-48] + footer(0, 8, FAR, 8), f"room for 8 bytes of a block at {FAR}"),
    "a vast block": (TWO[:-48] + footer(0, 8, 0, FAR), f"room for {FAR} bytes of a block at 0"),
    "the footer": (flipped(TWO, len(TWO) - 9), "has a malformed footer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    content, problem = REFUSED[name]
    with pytest.raises(Malformed, match=problem.replace("(", r"\(")):
        read_table(content)


def test_no_block_is_read_twice_over() -> None:
    """A few bytes of index could otherwise ask for a large block again and again."""
    data = bundles.block([A])
    handle = bundles.varint(0) + bundles.varint(len(data) - 5)
    meta, index = bundles.block([]), bundles.block([(b"a", handle), (b"b", handle)])
    end = len(data) + len(meta)
    numbers = (len(data), len(meta) - 5, end, len(index) - 5)
    with pytest.raises(Malformed, match=f"has a block at 0, where {len(data)} was expected"):
        read_table(data + meta + index + footer(*numbers))


@settings(max_examples=200)
@given(st.binary(max_size=100))
def test_any_bytes_are_a_table_or_malformed(content: bytes) -> None:
    for data in (content, content + bundles.MAGIC, bundles.table(bundles.signed(content))):
        with contextlib.suppress(Malformed):
            read_table(data)
