"""JSON schemas by the seed: nested objects, arrays, choices, numbers, texts with a pattern."""

from __future__ import annotations

import random
from typing import Any

PATTERNS = (
    "^[a-z]{2,8}$",
    "^(red|green|blue)[0-9]?$",
    "^[A-Z][a-z]{1,9}( [A-Z][a-z]{1,9})?$",
    "^\\d{3}-\\d{4}$",
)
LEAVES: tuple[dict[str, Any], ...] = (
    {"type": "boolean"},
    {"type": "null"},
    {"type": "integer", "minimum": -20, "maximum": 4_000},
    {"type": "number", "minimum": 0, "maximum": 99.5},
    {"type": "string", "maxLength": 12},
    {"type": "string", "minLength": 3, "maxLength": 9},
    {"enum": ["one", "two é", 'a "quoted" one', 4, None, [1, 2]]},
    {"const": {"fixed": [True, "value"]}},
    *({"type": "string", "pattern": pattern} for pattern in PATTERNS),
)


def random_schema(seed: int) -> dict[str, Any]:
    """An object with up to four properties, some of which are optional, up to three deep."""
    return _object(random.Random(seed), depth=2)


def _value(rng: random.Random, depth: int) -> dict[str, Any]:
    kind = rng.randrange(6)
    if depth and kind == 0:
        return _object(rng, depth - 1)
    if depth and kind == 1:
        least = rng.randrange(3)
        items = _value(rng, depth - 1)
        return {"type": "array", "items": items, "minItems": least, "maxItems": least + 2}
    if depth and kind == 2:
        return {"anyOf": [_value(rng, 0), _value(rng, depth - 1)]}
    return rng.choice(LEAVES)


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = [f"{rng.choice(('name', 'size', 'größe', 'a b'))}{i}" for i in range(rng.randint(1, 4))]
    return {
        "type": "object",
        "properties": {name: _value(rng, depth) for name in names},
        "required": rng.sample(names, rng.randint(1, len(names))),
        "additionalProperties": False,
    }
