from __future__ import annotations

import re

import httpx

from engine.errors import EngineFailed
from server.schemas import CompletionRequest
from tests.server.conftest import client_of, make_app
from tests.server.fake_engine import FakeEngine


async def test_a_restarting_engine_is_not_ready_and_yet_healthy(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    assert (await client.get("/ready")).status_code == 200
    engine.is_ready = engine.is_up = False
    answers = [await client.get(path) for path in ("/ready", "/health")]
    assert [answer.status_code for answer in answers] == [503, 200]
    assert answers[0].headers["retry-after"] == "1"


async def test_a_lost_engine_is_not_healthy(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.is_ready = engine.is_up = False
    engine.failure = EngineFailed(["it died too often"])
    health = await client.get("/health")
    assert health.status_code == 503
    assert health.json()["problems"] == ["it died too often"]
    answer = await client.post("/v1/completions", json={"prompt": "a"})
    assert answer.json()["error"]["code"] == "engine_failed"


async def test_docs_fetch_nothing_from_outside(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert re.findall(r"https?://|src=|@import|url\(", page.text) == []
    assert "default-src 'none'" in page.headers["content-security-policy"]


async def test_openapi_names_every_field(client: httpx.AsyncClient) -> None:
    described = (await client.get("/openapi.json")).json()
    body = described["paths"]["/v1/completions"]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == set(CompletionRequest.model_fields)
    assert schema["additionalProperties"] is False
    assert "$ref" not in str(schema)
    assert len(schema["properties"]["prompt"]["anyOf"]) == 4


async def test_the_version_is_the_distributions(client: httpx.AsyncClient) -> None:
    assert set((await client.get("/version")).json()) == {"version"}


async def test_unknown_routes_and_methods_have_our_form(client: httpx.AsyncClient) -> None:
    for method, path, status in [
        ("GET", "/nope", 404),
        ("GET", "/v1/completions/", 404),
        ("GET", "/v1/completions", 405),
        ("DELETE", "/health", 405),
        ("POST", "/" + "x" * 5_000, 404),
    ]:
        answer = await client.request(method, path)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert len(answer.text) < 500


async def test_the_model_is_described_by_any_of_its_names() -> None:
    async with client_of(make_app(FakeEngine(), served_model_name="org/nice")) as client:
        listed = (await client.get("/v1/models")).json()
        by_name = (await client.get("/v1/models/org/nice")).json()
        by_alias = (await client.get("/v1/models/tiny")).json()
        other = await client.get("/v1/models/other")
    assert listed == {"object": "list", "data": [by_name]}
    assert by_alias == by_name
    assert by_name["id"] == "org/nice"
    assert by_name["max_model_len"] == 64
    assert by_name["weights_hash"] == "abc"
    assert other.status_code == 404
