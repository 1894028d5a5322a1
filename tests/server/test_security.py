"""Who is let in: over the app's own routes, so that a new one cannot be forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import httpx
import openai
import pytest
from fastapi import FastAPI
from starlette.routing import BaseRoute, Route

from server.security import PUBLIC_PATHS
from server.settings import Settings
from tests.server.conftest import client_of, make_app, serving
from tests.server.fake_engine import FakeEngine

KEY = "sk-user-0123456789abcdef"
ADMIN = "sk-admin-0123456789abcdef"

COVERED = {
    ("POST", "/v1/completions"),
    ("POST", "/v1/score"),
    ("POST", "/v1/classify"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model_id:path}"),
    ("GET", "/version"),
    ("GET", "/metrics"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
}
"""At least these; what the app has beside them is covered as well."""


def bearer(key: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {key}"}


def routes_of(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Method and path of each route, those within included routers too."""
    waiting: list[BaseRoute] = list(app.routes)
    for route in waiting:
        if isinstance(route, Route) and route.methods:
            yield from ((method, route.path) for method in route.methods)
        waiting += getattr(getattr(route, "original_router", route), "routes", None) or []


@pytest.fixture
def app() -> FastAPI:
    return make_app(FakeEngine(), api_key=(KEY,), admin_key=ADMIN)


@pytest.fixture
async def keyed(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as client:
        yield client


async def test_every_route_without_a_key_is_401(app: FastAPI, keyed: httpx.AsyncClient) -> None:
    routes = set(routes_of(app))
    assert routes >= COVERED
    for method, path in routes:
        answer = await keyed.request(method, path.replace("{model_id:path}", "tiny"))
        expected = 200 if path in PUBLIC_PATHS else 401
        assert (method, path, answer.status_code) == (method, path, expected)


async def test_every_route_with_a_key_is_reached(app: FastAPI, keyed: httpx.AsyncClient) -> None:
    for method, template in routes_of(app):
        path = template.replace("{model_id:path}", "tiny")
        key = ADMIN if path == "/metrics" else KEY
        answer = await keyed.request(method, path, headers=bearer(key))
        assert answer.status_code in {200, 415}, (method, path, answer.text)


async def test_what_is_no_route_tells_nothing_without_a_key(keyed: httpx.AsyncClient) -> None:
    for method, path in [
        ("GET", "/nope"),
        ("GET", "/v1/completions"),
        ("DELETE", "/metrics"),
        ("OPTIONS", "/v1/completions"),
        ("POST", "/health/"),
        ("GET", "/v1//models"),
        ("GET", "/health%2f..%2fmetrics"),
    ]:
        answer = await keyed.request(method, path)
        assert answer.status_code == 401
        assert path not in answer.text
        assert "allow" not in answer.headers


async def test_a_wrong_key_is_refused_in_openais_form(keyed: httpx.AsyncClient) -> None:
    for value in [
        *(KEY, f"Basic {KEY}", "Bearer", "Bearer ", f"Bearer {KEY}x", f"Bearer x{KEY}"),
        *(f"Bearer {KEY[:-1]}", f"Bearer {KEY.upper()}", f"Bearer {KEY},{KEY}", f"Bearer {KEY} x"),
        *(f"Bearer {KEY}\u00e9", f"Bearer {'k' * 20_000}"),
    ]:
        headers = {b"Authorization": value.encode("latin-1")}
        answer = await keyed.get("/v1/models", headers=headers)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (401, "invalid_api_key"), value
        assert answer.headers["www-authenticate"].startswith('Bearer realm="gpt2-server"')
        assert KEY[:-1] not in answer.text


async def test_two_keys_in_one_request_are_none(keyed: httpx.AsyncClient) -> None:
    """Otherwise a proxy and this server could each look at another one."""
    headers = [("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer other")]
    assert (await keyed.get("/v1/models", headers=headers)).status_code == 401


async def test_the_scheme_is_read_in_any_case(keyed: httpx.AsyncClient) -> None:
    answer = await keyed.get("/v1/models", headers={"Authorization": f"bearer  {KEY} "})
    assert answer.status_code == 200


async def test_only_the_admin_key_opens_metrics_where_there_is_one(
    keyed: httpx.AsyncClient,
) -> None:
    refused = await keyed.get("/metrics", headers=bearer(KEY))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_key_required")
    assert (await keyed.get("/metrics", headers=bearer(ADMIN))).status_code == 200
    assert (await keyed.get("/v1/models", headers=bearer(ADMIN))).status_code == 200
    async with client_of(make_app(FakeEngine(), api_key=(KEY,))) as without:
        assert (await without.get("/metrics", headers=bearer(KEY))).status_code == 200


async def test_without_keys_everybody_is_let_in(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models")).status_code == 200


async def test_openais_client_knows_the_refusal(app: FastAPI) -> None:
    async with serving(app) as address:
        wrong = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="sk-wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError) as refused:
            await wrong.completions.create(model="tiny", prompt="a" * 100_000)
        right = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0)
        assert (await right.completions.create(model="tiny", prompt="a")).choices
        await wrong.close()
        await right.close()
    assert refused.value.code == "invalid_api_key"


async def test_a_models_name_never_is_a_path(client: httpx.AsyncClient) -> None:
    for name in ("../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd", "a%00b", "..%5c.."):
        answer = await client.get(f"/v1/models/{name}")
        assert answer.status_code == 404
        answer = await client.post("/v1/completions", json={"prompt": "a", "model": name})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("task", ["../up=d", "a/b=d", "/abs=d", "a\0b=d", "..=d", "x" * 200 + "=d"])
def test_a_tasks_name_has_nothing_of_a_path(task: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must begin with a name"):
        Settings(checkpoint=tmp_path, task=(task,))


def test_nothing_is_told_to_anybody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """FastAPI has OpenTelemetry built in, which exports bodies where the environment says so."""
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setattr("fastapi.telemetry._asgi._unconfigured", lambda _provider: False)
    assert FastAPI()._native_telemetry.enabled()
    assert not make_app(FakeEngine())._native_telemetry.enabled()
