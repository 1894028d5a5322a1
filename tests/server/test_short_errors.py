"""Whatever comes in, what goes out is short and has the form of every error: by hypothesis."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers

from server.body import check_content_type, parse_object
from server.errors import ApiError, error_response
from server.schemas import (
    NOT_BUILT,
    ClassifyRequest,
    CompletionRequest,
    DetokenizeRequest,
    ScoreRequest,
    TokenizeRequest,
)
from server.validation import RequestSchema, validate

MAX_BODY_BYTES = 2_000
"""A message has at most 500 characters, and JSON needs up to six bytes for one of them twice."""

SCHEMAS = (CompletionRequest, ScoreRequest, ClassifyRequest, TokenizeRequest, DetokenizeRequest)

ENORMOUS = st.sampled_from(
    [
        "x" * 100_000,
        "\ud800" * 10_000,
        "\0" * 10_000,
        "\"\\'" * 10_000,
        "😀" * 10_000,
        10**4_000,
        -(10**400),
        [[[]] * 1_000] * 20,
        {"y" * 50_000: "z" * 50_000},
        {f"{i}": i for i in range(2_000)},
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | ENORMOUS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def check_refusal(error: ApiError) -> None:
    """Short, in OpenAI's form, with a status of the client's own fault."""
    answer = error_response(error)
    assert len(answer.body) <= MAX_BODY_BYTES
    told = json.loads(bytes(answer.body))["error"]
    assert set(told) == {"message", "type", "param", "code"}
    assert told["message"]
    assert answer.status_code in {400, 408, 413, 415, 431}
    assert all(len(value) < 200 for value in answer.headers.values())


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.__name__)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_no_value_of_any_field_makes_a_long_error(
    schema: type[RequestSchema], data: st.DataObject
) -> None:
    names = st.sampled_from([*schema.model_fields, *NOT_BUILT]) | st.text() | st.just("n" * 10**5)
    values: dict[str, Any] = data.draw(st.dictionaries(names, VALUES, min_size=1, max_size=3))
    try:
        validate(schema, values, NOT_BUILT if schema is CompletionRequest else None)
    except ApiError as error:
        check_refusal(error)


@settings(deadline=None, max_examples=60)
@given(
    st.binary(max_size=200)
    | VALUES.map(lambda value: json.dumps(value).encode())
    | st.sampled_from([b'{"' + b"n" * 10**5 + b'":1,"' + b"n" * 10**5 + b'":1}', b"[" * 10**5])
)
def test_no_body_makes_a_long_error(body: bytes) -> None:
    try:
        parse_object(body)
    except ApiError as error:
        check_refusal(error)


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=100).map(lambda value: value * 1_000))
def test_no_header_makes_a_long_error(value: bytes) -> None:
    for name in (b"content-type", b"content-encoding"):
        with pytest.raises(ApiError) as refused:
            check_content_type(Headers(raw=[(name, value + b"!")]))
        check_refusal(refused.value)
