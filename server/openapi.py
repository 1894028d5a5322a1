"""What /openapi.json says of the routes, which read bodies and write answers themselves."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from server.validation import RequestSchema

Schema = Mapping[str, Any]

ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string"},
                "type": {"enum": ["invalid_request_error", "rate_limit_error", "server_error"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
"""The one form of every refusal."""

UNREAD = (400, 408, 413, 431, 503)
"""What any request can be refused with before a route sees it."""
KEYED = (401,)
"""Where a key is needed, if there are any."""
POSTED = (*UNREAD, *KEYED, 404, 415)
"""What reads a body and looks at its model."""
QUEUED = (*POSTED, 429, 504)
"""What waits for the engine."""

_RETRIED = (429, 503)
_EVENT = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
"""Readers of the document take the schema of a stream for that of each event."""


def operation(
    answer: type[msgspec.Struct] | Schema,
    refusals: tuple[int, ...],
    *,
    body: type[RequestSchema] | None = None,
    events: str | None = None,
    others: Mapping[int, Schema] | None = None,
) -> dict[str, Any]:
    """``openapi_extra`` of a route: the JSON of its 200, what else it can answer, what it takes.

    ``events`` says what a 200 may be instead, as a stream. ``others`` are JSON answers of other
    statuses that are no errors in form.
    """
    schema = answer if isinstance(answer, Mapping) else _struct_schema(answer)
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if events is not None:
        content["text/event-stream"] = {"schema": _EVENT | {"description": events}}
    responses: dict[str, Any] = {"200": {"description": "OK", "content": content}}
    responses |= {str(status): _refusal(status) for status in sorted(refusals)}
    for status, schema in (others or {}).items():
        told = responses[str(status)]["content"]["application/json"]
        told["schema"] = {"anyOf": [schema, told["schema"]]}
    described: dict[str, Any] = {"responses": responses}
    if body is not None:
        content = {"application/json": {"schema": _body_schema(body)}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def text_operation(media_type: str, refusals: tuple[int, ...]) -> dict[str, Any]:
    """The same of a route that answers with text."""
    described = operation({}, refusals)
    described["responses"]["200"]["content"] = {media_type: {"schema": {"type": "string"}}}
    return described


def _refusal(status: int) -> dict[str, Any]:
    told: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "content": {"application/json": {"schema": ERROR}},
    }
    if status in _RETRIED:
        after = {"description": "Seconds", "schema": {"type": "integer", "minimum": 1}}
        told["headers"] = {"Retry-After": after}
    return told


def _struct_schema(answer: type[msgspec.Struct]) -> Schema:
    (reference,), parts = msgspec.json.schema_components([answer])
    schema: Schema = _inline(reference, parts)
    return schema


def _body_schema(body: type[RequestSchema]) -> Schema:
    """With null beside every field that has a default, because it stands for it."""
    described = body.model_json_schema()
    schema: dict[str, Any] = _inline(described, described.pop("$defs", {}))
    required = schema.get("required", [])
    for name, field in schema["properties"].items():
        if name not in required and {"type": "null"} not in field.get("anyOf", ()):
            told = {key: field.pop(key) for key in ("default", "title") if key in field}
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}], **told}
    return schema


def _inline(value: Any, parts: Mapping[str, Any]) -> Any:
    """``value`` with each reference replaced by what it refers to."""
    if isinstance(value, list):
        return [_inline(item, parts) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return _inline(parts[value["$ref"].removeprefix("#/$defs/")], parts)
    return {name: _inline(item, parts) for name, item in value.items()}
