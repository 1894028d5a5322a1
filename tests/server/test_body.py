from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from server.body import MAX_DEPTH, MAX_NAMES, MAX_PARTS, check_content_type, parse_object
from server.errors import ApiError


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5_000 + b"}",
        b'{"a": ' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a": "\xff"}',
        b'{"a": "\x00"}',
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": 1, "a": 2}',
        b'{"a": 1} {}',
    ],
)
def test_what_is_not_one_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        parse_object(body)
    assert refused.value.status == 400
    assert len(refused.value.message) < 200


def test_too_long_a_number_is_told_the_limit() -> None:
    with pytest.raises(ApiError, match="more than 4300 digits"):
        parse_object(b'{"a": ' + b"9" * 5_000 + b"}")


def nested(depth: int, inner: bytes = b"") -> bytes:
    """An object with lists in it, so many brackets deep in all."""
    return b'{"a":' + b"[" * (depth - 1) + inner + b"]" * (depth - 1) + b"}"


def test_depth_is_bounded_by_a_rule_and_not_by_the_interpreter() -> None:
    assert parse_object(nested(MAX_DEPTH))
    assert parse_object(b'{"a": "' + b"[" * 10_000 + b'"}'), "in a text it is no bracket"
    for deep in (MAX_DEPTH + 1, 500, 100_000):
        with pytest.raises(ApiError, match=f"nested more than {MAX_DEPTH} deep"):
            parse_object(nested(deep))
    objects = b'{"a":' * MAX_DEPTH + b"{}" + b"}" * MAX_DEPTH
    with pytest.raises(ApiError, match=f"nested more than {MAX_DEPTH} deep"):
        parse_object(objects)


@pytest.mark.parametrize("item", [b"1", b"1.5", b'""', b"[]", b"{}", b"null"])
def test_the_number_of_values_is_bounded(item: bytes) -> None:
    """A megabyte of empty lists would hold up every stream for half a second."""
    num_parts = 1 + item.count(b"[") + item.count(b"{")
    most = (MAX_PARTS - 3) // num_parts
    assert len(parse_object(b'{"a":[' + b",".join([item] * most) + b"]}")["a"]) == most
    with pytest.raises(ApiError, match=f"at most {MAX_PARTS} commas, colons and opening brackets"):
        parse_object(b'{"a":[' + b",".join([item] * (most + 2)) + b"]}")


def test_the_number_of_names_is_bounded() -> None:
    names = [b'"%d":1' % index for index in range(MAX_NAMES + 1)]
    assert len(parse_object(b"{" + b",".join(names[:-1]) + b"}")) == MAX_NAMES
    with pytest.raises(ApiError, match=f"at most {MAX_NAMES} names, got {MAX_NAMES + 1}"):
        parse_object(b"{" + b",".join(names) + b"}")


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
def test_a_compressed_body_is_refused_by_name(encoding: str) -> None:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    with pytest.raises(ApiError, match="Content-Encoding must be identity") as refused:
        check_content_type(Headers(headers))
    assert refused.value.status == 415
    check_content_type(Headers({**headers, "content-encoding": "Identity"}))


def test_numbers_keep_their_types() -> None:
    value = parse_object(b'{"a": 5, "b": 5.0, "c": true, "d": "\\ud83d\\ude42"}')
    assert [type(item) for item in value.values()] == [int, float, bool, str]
    assert value["d"] == "🙂"


@pytest.mark.parametrize(
    "value",
    ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"'],
)
def test_json_is_understood(value: str) -> None:
    check_content_type(Headers({"content-type": value}))


@pytest.mark.parametrize(
    "values",
    [
        [],
        ["text/plain"],
        ["application/x-www-form-urlencoded"],
        ["application/json; charset=utf-16"],
        ["application/json", "application/json"],
        ["application/json, text/plain"],
    ],
)
def test_another_content_type_is_415(values: list[str]) -> None:
    headers = Headers(raw=[(b"content-type", value.encode()) for value in values])
    with pytest.raises(ApiError) as refused:
        check_content_type(headers)
    assert refused.value.status == 415
