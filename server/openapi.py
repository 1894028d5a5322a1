"""What /openapi.json says of request bodies, which the routes read themselves."""

from __future__ import annotations

from typing import Any

from server.validation import RequestSchema


def body_of(schema: type[RequestSchema]) -> dict[str, Any]:
    """``openapi_extra`` of a route that takes ``schema``."""
    described = schema.model_json_schema()
    parts = described.pop("$defs", {})
    content = {"application/json": {"schema": _inline(described, parts)}}
    return {"requestBody": {"required": True, "content": content}}


def _inline(value: Any, parts: dict[str, Any]) -> Any:
    """``value`` with each reference replaced by what it refers to."""
    if isinstance(value, list):
        return [_inline(item, parts) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return _inline(parts[value["$ref"].removeprefix("#/$defs/")], parts)
    return {name: _inline(item, parts) for name, item in value.items()}
