"""What browsers are told, on every kind of answer; and whose pages may ask."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re

import httpx
import pytest

from server.headers import SECURITY_HEADERS, page_policy
from server.settings import SettingsError, read_settings
from tests.server.conftest import client_of, make_app, serving
from tests.server.fake_engine import FakeEngine

ORIGIN = "https://page.example"
EXPECTED = {name.decode(): value.decode() for name, value in SECURITY_HEADERS}


def security_of(answer: httpx.Response) -> dict[str, str]:
    return {name: answer.headers.get(name, "") for name in EXPECTED}


async def test_every_answer_has_them(client: httpx.AsyncClient) -> None:
    for method, path in [
        *[
            ("GET", path)
            for path in ("/health", "/v1/models", "/metrics", "/nope", "/openapi.json")
        ],
        *[("DELETE", "/health"), ("POST", "/v1/completions")],
    ]:
        answer = await client.request(method, path)
        assert security_of(answer) == EXPECTED, path
    plain = await client.post("/v1/completions", json={"prompt": "a"})
    stream = await client.post("/v1/completions", json={"prompt": "a", "stream": True})
    assert security_of(plain) == EXPECTED
    assert security_of(stream) == {**EXPECTED, "cache-control": "no-cache"}


async def test_what_no_application_has_seen_has_them_too() -> None:
    async with serving(make_app(FakeEngine())) as address:
        host, port = address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\x16\x03\x01 this is TLS\r\n\r\n")
        answer = (await reader.read()).decode()
        writer.close()
    assert answer.startswith("HTTP/1.1 400 ")
    assert [name for name, value in EXPECTED.items() if f"{name}: {value}\r\n" not in answer] == []


async def test_the_page_runs_its_own_scripts_only(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'; connect-src 'self'; script-src 'sha256-" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert page.text.count("<script") == 1
    assert not re.search(r"\s(on\w+|style)=", page.text)  # a hash does not allow those


def test_a_page_without_scripts_allows_none() -> None:
    assert "script-src" not in page_policy("<style>p {}</style>")
    assert "style-src 'sha256-" in page_policy("<style>p {}</style>")


async def test_no_origin_may_ask_by_default(client: httpx.AsyncClient) -> None:
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    answers = [
        await client.get("/v1/models", headers=headers),
        await client.options("/v1/completions", headers=headers),
    ]
    for answer in answers:
        assert [name for name in answer.headers if name.startswith("access-control")] == []


async def test_a_named_origin_may_ask_also_where_keys_are_needed() -> None:
    """A browser asks beforehand without any key, and must be able to read a 401."""
    app = make_app(FakeEngine(), cors_origin=(ORIGIN,), api_key=("k" * 16,))
    wanted = {"Access-Control-Request-Method": "POST"}
    wanted["Access-Control-Request-Headers"] = "authorization, content-type"
    async with client_of(app) as client:
        before = await client.options("/v1/completions", headers={"Origin": ORIGIN, **wanted})
        refused = await client.post("/v1/completions", headers={"Origin": ORIGIN})
        other = await client.options(
            "/v1/completions", headers={"Origin": "https://evil.example", **wanted}
        )
        elsewhere = await client.get("/health", headers={"Origin": "https://evil.example"})
    assert before.status_code == 200
    assert before.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-credentials" not in before.headers
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN
    assert "X-Request-Id" in refused.headers["access-control-expose-headers"]
    assert (other.status_code, other.json()["error"]["code"]) == (400, "cors_refused")
    for answer in (other, elsewhere):
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["page.example", "https://page.example/", "https://a b", "null", "https://*.x.y/z"]
)
def test_what_is_no_origin_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(SettingsError, match=r"cors_origin.*SCHEME://HOST"):
        read_settings({"cors_origin": (origin,)}, {})
