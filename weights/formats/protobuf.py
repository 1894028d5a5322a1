"""Protocol buffers, as far as reading small messages needs: the fields of one, by number.

Source: the encoding guide of protocol buffers. LevelDB's numbers are the same varints.
"""

from __future__ import annotations

_VARINT, _FIXED64, _PREFIXED, _FIXED32 = 0, 1, 2, 5


class Malformed(ValueError):
    """Bytes that are not what their format says. The text goes on after the name of the bytes."""


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number below 2**64 at ``at``, lowest 7 bits first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise Malformed("ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    if byte >= 0x80 or value >= 1 << 64:
        raise Malformed("has a number of more than 64 bits")
    return value, at


class Message:
    """The fields of one message. Absent ones are 0 or empty; unknown ones are skipped."""

    def __init__(self, data: bytes) -> None:
        """Raises Malformed."""
        self._fields: dict[int, list[int | bytes]] = {}
        at = 0
        while at < len(data):
            tag, at = read_varint(data, at)
            value, at = _read_value(data, at, tag)
            self._fields.setdefault(tag >> 3, []).append(value)

    def unsigned(self, field: int) -> int:
        """The last number of a field, as its bits are. Raises Malformed."""
        value = self._fields.get(field, [0])[-1]
        if not isinstance(value, int):
            raise Malformed(f"has bytes in field {field}, where a number belongs")
        return value

    def signed(self, field: int) -> int:
        """The last number of a field of type int32, int64 or enum. Raises Malformed."""
        value = self.unsigned(field)
        return value - (1 << 64) if value >= 1 << 63 else value

    def parts(self, field: int) -> list[bytes]:
        """Every message or string of a field. Raises Malformed."""
        values = self._fields.get(field, [])
        parts = [value for value in values if isinstance(value, bytes)]
        if len(parts) < len(values):
            raise Malformed(f"has a number in field {field}, where bytes belong")
        return parts

    def message(self, field: int) -> Message:
        """A field that is one message. Several are merged, which is to read them joined."""
        return Message(b"".join(self.parts(field)))


def _read_value(data: bytes, at: int, tag: int) -> tuple[int | bytes, int]:
    wire = tag & 7
    if wire == _VARINT:
        return read_varint(data, at)
    if wire in {_FIXED32, _FIXED64}:
        end = at + (4 if wire == _FIXED32 else 8)
    elif wire == _PREFIXED:
        num_bytes, at = read_varint(data, at)
        end = at + num_bytes
    else:
        raise Malformed(f"has the unknown wire type {wire} in field {tag >> 3}")
    if end > len(data):
        raise Malformed(f"ends inside field {tag >> 3}")
    content = data[at:end]
    return (content if wire == _PREFIXED else int.from_bytes(content, "little")), end
