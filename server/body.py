"""A request's body, as JSON and nothing else. Every refusal is an ApiError.

What a small body may cost is bounded before anything is made of it: a megabyte of empty lists
takes a thousand times as long to read as a megabyte of text.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from starlette.datastructures import Headers
from starlette.requests import Request

from server.errors import ApiError, short

MAX_PARTS = 150_000
"""Commas, colons and opening brackets: a body has no more values and names. The largest request
that has a use, 128 prompts of 1,024 ids, has 131,000."""
MAX_NAMES = 2_048
MAX_DEPTH = 32


async def read_body(request: Request) -> bytes:
    """All of a body that says it is JSON. Raises ApiError: 408, 413 or 415."""
    check_content_type(request.headers)
    return await request.body()


def check_content_type(headers: Headers) -> None:
    """Refuse, with 415, everything but one plain ``application/json``, in UTF-8 if it says."""
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise _unsupported(f"Content-Encoding must be identity, got {short(encoding)}")
    values = headers.getlist("content-type")
    if len(values) != 1:
        raise _unsupported(f"one Content-Type header is needed, got {len(values)}")
    kind, *parameters = (part.strip().lower() for part in values[0].split(";"))
    if kind != "application/json":
        raise _unsupported(f"Content-Type must be application/json, got {short(values[0])}")
    for parameter in filter(None, parameters):
        name, _, value = parameter.partition("=")
        if name == "charset" and value.strip('"') not in {"utf-8", "utf8"}:
            raise _unsupported(f"the charset must be utf-8, got {short(value)}")


def parse_object(body: bytes) -> Mapping[str, Any]:
    """JSON as RFC 8259 has it: no NaN, no infinity (1e999 included), no name twice.

    Raises ApiError for anything else, and beyond MAX_PARTS, MAX_NAMES or MAX_DEPTH.
    """
    num_brackets = body.count(b"[") + body.count(b"{")
    num_parts = num_brackets + body.count(b",") + body.count(b":")
    if num_parts > MAX_PARTS:
        rule = f"the body must have at most {MAX_PARTS} commas, colons and opening brackets"
        raise ApiError(400, f"{rule}, got {num_parts}", code="invalid_json")
    value = _load(body)
    if not isinstance(value, dict):
        raise _bad_json(f"it must be an object, got {short(value)}")
    if num_brackets > MAX_DEPTH:
        _check_depth(value)
    return value


def _load(body: bytes) -> Any:
    """Whatever JSON value it is. Raises ApiError."""
    try:
        return json.loads(
            body.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_unique,
        )
    except UnicodeDecodeError as error:
        raise _bad_json(f"it is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        raise _bad_json(f"{error.msg} at character {error.pos}") from None
    except ValueError:  # the interpreter's own bound on the digits of a whole number
        limit = sys.get_int_max_str_digits()
        raise _bad_json(f"a number has more than {limit} digits") from None


def _check_depth(value: dict[str, Any]) -> None:
    """Refuse brackets within brackets beyond MAX_DEPTH; all containers of one depth at a time."""
    level: list[dict[str, Any] | list[Any]] = [value]
    for _ in range(MAX_DEPTH):
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [part for parts in inner for part in parts if isinstance(part, dict | list)]
        if not level:
            return
    raise _too_deep()


def _unsupported(message: str) -> ApiError:
    return ApiError(415, message, code="unsupported_media_type")


def _bad_json(reason: str) -> ApiError:
    return ApiError(400, f"the body cannot be read as JSON: {reason}", code="invalid_json")


def _too_deep() -> ApiError:
    return _bad_json(f"it is nested more than {MAX_DEPTH} deep")


def _refuse_constant(name: str) -> NoReturn:
    raise _bad_json(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _bad_json(f"the number {short(digits)} is too large")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_NAMES:
        raise _bad_json(f"an object must have at most {MAX_NAMES} names, got {len(pairs)}")
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise _bad_json(f"the name {short(name)} is there twice")
        values[name] = value
    return values
