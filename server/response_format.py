"""``response_format``, as OpenAI's clients send it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from server.validation import RequestSchema


class NamedSchema(RequestSchema):
    """A JSON schema; followed whether ``strict`` or not. The other two are for people."""

    name: str = Field(min_length=1, max_length=64)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(RequestSchema):
    """``text``: any text; ``json_object``: an object; ``json_schema``: what a schema says."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _belongs_together(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("must have json_schema where the type is json_schema, and only there")
        return self
