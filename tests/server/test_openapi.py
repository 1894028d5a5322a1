"""/openapi.json: every route tells every status, and answers are what it says."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

QUEUED = {"/v1/completions", "/v1/score", "/v1/classify"}
OPEN = {"/health", "/ready"}


@pytest.fixture
async def described(client: httpx.AsyncClient) -> dict[str, Any]:
    answer: dict[str, Any] = (await client.get("/openapi.json")).json()
    return answer


def operations(described: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, verb, operation)
        for path, verbs in described["paths"].items()
        for verb, operation in verbs.items()
    ]


def test_every_route_tells_every_status(described: dict[str, Any]) -> None:
    """A new route cannot be forgotten: 422 is FastAPI's, which never answers here."""
    for path, verb, operation in operations(described):
        statuses = set(map(int, operation["responses"]))
        expected = {200, 400, 408, 413, 431, 503}
        expected |= set() if path in OPEN else {401}
        expected |= {403} if path == "/metrics" else set()
        expected |= {404, 415} if verb == "post" else set()
        expected |= {404} if "{" in path else set()
        expected |= {429, 504} if path in QUEUED else set()
        assert statuses == expected, path
        assert ("requestBody" in operation) == (verb == "post")


def test_refusals_have_one_form_and_answers_have_one_each(described: dict[str, Any]) -> None:
    for path, _, operation in operations(described):
        for status, response in operation["responses"].items():
            content = response["content"]
            assert path == "/metrics" or content["application/json"]["schema"], path
            if status not in {"200", "503"}:
                schema = content["application/json"]["schema"]
                assert schema["properties"]["error"]["required"] == [
                    *("message", "type", "param", "code")
                ]


def test_bounds_are_in_words_of_json_schema(described: dict[str, Any]) -> None:
    """Of a bound behind a function pydantic wrote ``ge``, which no reader knows."""
    body = described["paths"]["/v1/completions"]["post"]["requestBody"]
    fields = body["content"]["application/json"]["schema"]["properties"]
    number, null = fields["temperature"]["anyOf"]
    assert number == {"type": "number", "minimum": 0, "maximum": 100}
    assert null == {"type": "null"}
    assert {"type": "integer", "minimum": -1} in fields["truncate_prompt_tokens"]["anyOf"]
    assert "null" not in str(fields["prompt"])
