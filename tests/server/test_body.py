from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from server.body import check_content_type, parse_object
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
