"""Protocol buffers: what their encoding guide says, and nothing shorter, longer or endless."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.weights.formats.bundle_writer import field, varint
from weights.formats.protobuf import Malformed, Message, read_varint


@given(st.integers(0, (1 << 64) - 1), st.binary(max_size=2))
def test_numbers_come_back(value: int, behind: bytes) -> None:
    written = varint(value)
    assert read_varint(b"\xff" + written + behind, 1) == (value, 1 + len(written))


def test_fields_of_the_encoding_guide() -> None:
    """Its examples: 150 in field 1, "testing" in field 2; and numbers of fixed length."""
    message = Message(bytes.fromhex("089601 120774657374696e67 1d01000080 210000000000000080"))
    assert message.unsigned(1) == 150
    assert message.parts(2) == [b"testing"]
    assert message.unsigned(3) == 0x80000001
    assert message.unsigned(4) == 1 << 63
    assert (message.unsigned(9), message.signed(9), message.parts(9)) == (0, 0, [])


@pytest.mark.parametrize("value", [-(1 << 63), -1, 0, (1 << 63) - 1])
def test_signed_numbers(value: int) -> None:
    assert Message(field(3, value)).signed(3) == value


def test_the_last_number_counts_and_messages_are_merged() -> None:
    inner = field(2, field(1, 7)) + field(2, field(4, 8) + field(1, 9))
    message = Message(field(1, 5) + inner + field(1, 6))
    assert message.unsigned(1) == 6
    assert message.message(2).unsigned(1) == 9
    assert message.message(2).unsigned(4) == 8


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("08", "ends inside a number"),
        ("0880", "ends inside a number"),
        ("08" + "ff" * 9 + "02", "more than 64 bits"),
        ("08" + "ff" * 40, "more than 64 bits"),
        ("0a05616263", "ends inside field 1"),
        ("0a" + "ff" * 9 + "01" + "00", "ends inside field 1"),
        ("0d000000", "ends inside field 1"),
        ("0900000000000000", "ends inside field 1"),
        ("0b", "unknown wire type 3 in field 1"),
        ("17", "unknown wire type 7 in field 2"),
    ],
)
def test_malformed_bytes(content: str, problem: str) -> None:
    with pytest.raises(Malformed, match=problem):
        Message(bytes.fromhex(content))


def test_a_field_of_the_other_kind() -> None:
    message = Message(field(1, b"x") + field(2, 7) + field(2, b"x"))
    with pytest.raises(Malformed, match="has bytes in field 1, where a number belongs"):
        message.unsigned(1)
    with pytest.raises(Malformed, match="has a number in field 2, where bytes belong"):
        message.parts(2)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_malformed(content: bytes) -> None:
    with contextlib.suppress(Malformed):
        Message(content)
