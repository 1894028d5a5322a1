"""From a JSON object to a checked request: unknown names, fields not built yet, wrong values."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from server.body import parse_object, read_body
from server.errors import ApiError, short

QUICK_BODY_BYTES = 16_384
"""Bodies up to here are read at once, in about a millisecond; larger ones go to a thread."""


class RequestSchema(BaseModel):
    """A request body. Types are strict: "5", 5.0 and true are not the number 5."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Schema = TypeVar("Schema", bound=RequestSchema)


async def read_request(
    request: Request,
    schema: type[Schema],
    unsupported: Mapping[str, tuple[object, ...]] | None = None,
    check_queue: Callable[[], None] = lambda: None,
) -> Schema:
    """The request's body as a ``schema``; see :func:`validate`. Raises ApiError.

    ``check_queue`` comes first: a refusal for want of room must cost less than an answer.
    """
    body = await read_body(request)
    check_queue()
    if len(body) <= QUICK_BODY_BYTES:
        return validate(schema, parse_object(body), unsupported)
    return await asyncio.to_thread(lambda: validate(schema, parse_object(body), unsupported))


def validate(
    schema: type[Schema],
    values: Mapping[str, Any],
    unsupported: Mapping[str, tuple[object, ...]] | None = None,
) -> Schema:
    """``values`` as a ``schema``; null stands for a field's default.

    ``unsupported`` maps fields that are known but not built to the values which leave them
    off. Raises ApiError (400) for the first problem.
    """
    unsupported = unsupported or {}
    given = {}
    for name, value in values.items():
        if name in schema.model_fields:
            if value is not None:
                given[name] = value
        elif name not in unsupported:
            raise _unknown(name, [*schema.model_fields, *unsupported])
        elif not _is_one_of(value, unsupported[name]):
            raise ApiError(
                400,
                f"{name} is not supported by this server, got {short(value)}",
                param=name,
                code="unsupported_parameter",
            )
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        raise _refusal(error) from None


def _is_one_of(value: object, choices: tuple[object, ...]) -> bool:
    """Equality that tells false from 0."""
    return any(type(value) is type(choice) and value == choice for choice in choices)


def _unknown(name: str, known: list[str]) -> ApiError:
    close = difflib.get_close_matches(name[:100], known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return ApiError(400, f"unknown field {short(name)}{hint}", param=name, code="unknown_parameter")


def _refusal(error: ValidationError) -> ApiError:
    """The first problem that pydantic found, as rule, limit and value."""
    line = error.errors(include_url=False, include_context=False)[0]
    where = _path(line["loc"])
    if line["type"] == "missing":
        return ApiError(400, f"{where} is required", param=where, code="missing_parameter")
    if line["type"] == "extra_forbidden":
        return ApiError(400, f"unknown field {where}", param=where, code="unknown_parameter")
    rule = line["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = f"{where} {rule}, got {short(line['input'])}"
    return ApiError(400, message, param=where or None, code="invalid_value")


def _path(loc: tuple[int | str, ...]) -> str:
    """``stop_token_ids[3]``, ``stream_options.include_usage``."""
    text = ".".join(part if isinstance(part, str) else f"[{part}]" for part in loc)
    return text.replace(".[", "[")
