"""Damage to good inputs: of their bytes, and of the values in them where they are JSON."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

FRAGMENTS = (
    *(b"null", b"true", b"[]", b"{}", b'""', b"-1", b"0", b"1e999", b"NaN", b"2.5", b"9" * 20),
    *(b'"\\ud800"', b'"\\u0000"', b"[" * 300, b'{"a":' * 300, b"..", b"/", b"\xed\xa0\x80"),
    *(b"\0", b"\xff" * 8, b"\xff" * 9 + b"\x01", b"\x00\x00\x00\x80", b"\n", b"\r\n", b"\t", b'"'),
    *(b"\xf0\x9f", b"</w>", b"<|endoftext|>"),
)
"""What readers stumble over."""

DEEP: list[Any] = []
for _ in range(200):
    DEEP = [DEEP]

NUMBERS: tuple[Any, ...] = (0, 1, -1, 2.5, 1e308, float("nan"), 2**16, 2**31, 2**60, 10**4_299)
TEXTS: tuple[Any, ...] = ("", "a", "</w>", "\ud800", "\0", "../x", "a" * 3_000)
OTHERS: tuple[Any, ...] = (None, True, [], {}, [None], [[0]], {"": 0}, {"type": "Sequence"}, DEEP)


_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")


def damaged(draw: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of ``seeds`` with one to four changes behind its first byte."""
    data = draw.choice(seeds)
    stays_json = draw.random() < 0.7
    for _ in range(draw.choice((1, 1, 2, 4))):
        changed = _with_other_value(draw, data) if stays_json else None
        data = changed or _with_other_bytes(draw, data)
    return data


def _with_other_bytes(draw: random.Random, data: bytes) -> bytes:
    start = draw.randint(1, max(1, len(data)))
    end = start + draw.choice((0, 0, 1, 1, 2, 4, 8, 40))
    match draw.randrange(4):
        case 0:
            new = b""
        case 1:
            new = draw.choice(FRAGMENTS)
        case 2:
            copied = draw.randrange(len(data))
            new = data[copied : copied + draw.randint(1, 30)]
        case _:
            new = draw.randbytes(draw.randint(1, 4))
    return data[:start] + new + data[end:]


def _with_other_value(draw: random.Random, data: bytes) -> bytes | None:
    """Of JSON behind the first byte, with one value replaced; None of anything else."""
    try:
        value = json.loads(data[1:])
    except (ValueError, RecursionError):
        return None
    numbers = [*_NUMBER.finditer(data, 1)]
    if numbers and draw.random() < 0.4:  # deep ones are seldom met on the way from the top
        found = draw.choice(numbers)
        new = json.dumps(draw.choice(NUMBERS)).encode()
        return data[: found.start()] + new + data[found.end() :]
    return data[:1] + json.dumps(_edited(draw, value)).encode()


def _edited(draw: random.Random, value: Any) -> Any:
    """``value``, or what is somewhere in it, in another state."""
    if not value or not isinstance(value, dict | list) or draw.random() < 0.05:
        return draw.choice(draw.choice((NUMBERS, TEXTS, OTHERS)))
    if isinstance(value, list):
        index = draw.randrange(len(value))
        return [*value[:index], *_edited_items(draw, value[index]), *value[index + 1 :]]
    name = draw.choice([*value])
    if draw.random() < 0.1:
        other = draw.choice(TEXTS)
        return {(other if key == name else key): item for key, item in value.items()}
    edited = _edited_items(draw, value[name])
    rest = {key: item for key, item in value.items() if key != name}
    return {**rest, name: edited[0]} if edited else rest


def _edited_items(draw: random.Random, item: Any) -> list[Any]:
    """Nothing, itself twice, or changed."""
    kind = draw.random()
    return [] if kind < 0.1 else [item, item] if kind < 0.2 else [_edited(draw, item)]
