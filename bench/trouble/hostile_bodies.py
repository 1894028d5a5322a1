"""Requests that no honest client sends, as the bytes on the wire."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

ROUTES = ("/v1/completions", "/v1/score", "/v1/classify", "/tokenize", "/detokenize")
FIELDS = (
    *("prompt", "max_tokens", "temperature", "top_k", "top_p", "min_p", "n", "best_of", "seed"),
    *("stop", "stop_token_ids", "logit_bias", "stream", "stream_options", "logprobs", "echo"),
    *("prompt_logprobs", "min_tokens", "repetition_penalty", "presence_penalty", "model", "user"),
    *("timeout", "truncate_prompt_tokens", "response_format", "no_such_field"),
)
VALUES: tuple[Any, ...] = (
    *(-1, 2**63, 10**400, 1e308, True, [], {}, [[]], [None], [-1], [2**40]),
    *("", "\0", "\ud800", "x" * 70_000, "\U0001f642" * 500, {"\0": 1}, {"-1": 1}, {"1": 1e308}),
)
BODIES = (
    *(b"", b"{", b"null", b"[]", b"1", b'"x"', b"{'prompt': 1}", b"NaN", b"\xff\xfe\x00", b"\0"),
    *(b'{"prompt": NaN}', b'{"prompt": "a", "temperature": 1e999}', b'{"prompt": "\xed\xa0\x80"}'),
    *(b'{"prompt": "a", "prompt": "b"}', b'\xef\xbb\xbf{"prompt": "a"}', b'{"prompt": "\\ud800"}'),
    *(b"[" * 100_000, b'{"a":' * 50_000, b"[" * 50_000 + b"]" * 50_000, b"9" * 5_000),
    *(b'{"prompt": ' + b"9" * 100_000 + b"}", b'{"prompt": "' + b"\\u0000" * 2_000 + b'"}'),
    *('{"prompt": "a"}'.encode("utf-16"), b"prompt=a", b'{"prompt": "a"} {"prompt": "b"}'),
)
HOST = b"Host: a\r\n"
JSON_TYPE = b"Content-Type: application/json\r\n"


@dataclass(frozen=True, slots=True)
class Case:
    """``data`` is sent, and, where ``is_cut``, the client then says that it has no more."""

    name: str
    data: bytes
    is_cut: bool = False


def post(path: str, body: bytes, headers: bytes = JSON_TYPE) -> bytes:
    """A whole request."""
    length = b"Content-Length: %d\r\n" % len(body)
    start = f"POST {path} HTTP/1.1\r\n".encode()
    return start + HOST + headers + length + b"Connection: close\r\n\r\n" + body


def cases() -> Iterator[Case]:
    """Some hundreds."""
    for route in ROUTES:
        for index, body in enumerate(BODIES):
            yield Case(f"{route} body {index}", post(route, body))
    for field in FIELDS:
        for index, value in enumerate(VALUES):
            body = json.dumps({"prompt": "a", "max_tokens": 2, field: value}).encode()
            yield Case(f"{field} value {index}", post("/v1/completions", body))
    yield from wire_cases()


def wire_cases() -> Iterator[Case]:
    """What breaks the rules of HTTP, or stops in the middle."""
    body = b'{"prompt": "a", "max_tokens": 2}'
    whole = post("/v1/completions", body)
    for share in (0.2, 0.5, 0.9, 0.99):
        yield Case(f"cut at {share:.0%}", whole[: int(share * len(whole))], is_cut=True)
    start = b"POST /v1/completions HTTP/1.1\r\n" + HOST + JSON_TYPE
    for name, rest in {
        "length is negative": b"Content-Length: -1\r\n\r\n" + body,
        "length is no number": b"Content-Length: x\r\n\r\n" + body,
        "length is huge": b"Content-Length: " + b"9" * 400 + b"\r\n\r\n" + body,
        "two lengths": b"Content-Length: 3\r\nContent-Length: 32\r\n\r\n" + body,
        "length and chunks": b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "chunk of no size": b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
        "chunk of minus one": b"Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
        "chunk of a huge size": b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\nabc",
        "chunk of garbage": b"Transfer-Encoding: chunked\r\n\r\n5\r\n\0\xff\0\xff\0\r\n0\r\n\r\n",
        "encoding unknown": b"Transfer-Encoding: gzip\r\n\r\n" + body,
        "a header with NUL": b"X-A: \0\r\nContent-Length: 0\r\n\r\n",
        "a header without a colon": b"nonsense\r\n\r\n",
        "a huge header": b"X-A: " + b"a" * 300_000 + b"\r\n\r\n",
        "many headers": b"".join(b"X-%d: a\r\n" % i for i in range(5_000)) + b"\r\n",
        "line ends of all sorts": b"X-A: a\rX-B: b\nX-C: c\r\n\r\n",
    }.items():
        yield Case(name, start + rest, is_cut=True)
    yield from path_cases()


def path_cases() -> Iterator[Case]:
    """Paths, methods and protocols that are not ours."""
    for path in (
        "/../../etc/passwd",
        "/%00",
        "/%2e%2e/%2e%2e",
        "/" + "a" * 60_000,
        "/v1/models/%ff",
    ):
        yield Case(
            f"path {path[:20]}", f"GET {path} HTTP/1.1\r\n".encode() + HOST + b"\r\n", is_cut=True
        )
    for method in (b"BREW", b"TRACE", b"CONNECT", b"DELETE", b"\0\0\0"):
        yield Case(
            f"method {method!r}", method + b" /health HTTP/1.1\r\n" + HOST + b"\r\n", is_cut=True
        )
    for name, data in {
        "HTTP/0.9": b"GET /health\r\n\r\n",
        "HTTP/9.9": b"GET /health HTTP/9.9\r\n\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
        "nothing": b"",
        "zeros": bytes(10_000),
        "line ends": b"\r\n" * 5_000,
    }.items():
        yield Case(name, data, is_cut=True)
    for types in (b"", b"Content-Type: text/plain\r\n", b"Content-Type: \xff\r\n"):
        yield Case(f"type {types!r}", post("/v1/completions", b'{"prompt": "a"}', types))
