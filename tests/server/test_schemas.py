"""Every way to ask for something impossible, through the route: the status and the field named."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from server.schemas import NOT_BUILT, CompletionRequest
from tests.server.fake_engine import VOCAB_SIZE, FakeEngine

TYPED = {"type": "json_schema"}
SCHEMA = {"name": "a", "schema": {"type": "object"}}


def json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


BAD: list[tuple[str, dict[str, Any]]] = [
    ("prompt", {"prompt": 5}),
    ("prompt", {"prompt": {}}),
    ("prompt", {"prompt": True}),
    ("prompt", {"prompt": None}),
    ("prompt", {"prompt": [1, "a"]}),
    ("prompt", {"prompt": ["a", 1]}),
    ("prompt", {"prompt": [1, 2.0]}),
    ("prompt", {"prompt": [1, True]}),
    ("prompt", {"prompt": [True]}),
    ("prompt", {"prompt": [-1]}),
    ("prompt", {"prompt": [10**30]}),
    ("prompt", {"prompt": [VOCAB_SIZE]}),
    ("prompt", {"prompt": [[1], [2, "a"]]}),
    ("prompt", {"prompt": [[1], 2]}),
    ("prompt", {"prompt": [[[1]]]}),
    ("prompt", {"prompt": "a\0b"}),
    ("prompt", {"prompt": "a\ud800b"}),
    ("prompt", {"prompt": ["fine", "\udfff"]}),
    ("prompt", {"prompt": [1] * 65}),
    ("prompt", {"prompt": "a" * 65}),
    ("prompt", {"prompt": "a" * 100_000}),
    ("prompt", {"prompt": ["a"] * 129}),
    ("prompt", {"prompt": ["a"] * 4_097}),
    ("prompt", {"prompt": [[]] * 4_097}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": -1}),
    ("max_tokens", {"max_tokens": 5.0}),
    ("max_tokens", {"max_tokens": "5"}),
    ("max_tokens", {"max_tokens": True}),
    ("temperature", {"temperature": -0.1}),
    ("temperature", {"temperature": 100.1}),
    ("temperature", {"temperature": 1e-300}),
    ("temperature", {"temperature": 5e-324}),
    ("temperature", {"temperature": "1"}),
    ("temperature", {"temperature": False}),
    ("temperature", {"temperature": 10**400}),
    ("top_k", {"top_k": -2}),
    ("top_k", {"top_k": 1.5}),
    ("top_p", {"top_p": 0}),
    ("top_p", {"top_p": 1.1}),
    ("min_p", {"min_p": -0.1}),
    ("n", {"n": 0}),
    ("n", {"n": 129}),
    ("n", {"n": 10**30}),
    ("best_of", {"n": 2, "best_of": 3}),
    ("seed", {"seed": -1}),
    ("seed", {"seed": 2**53}),
    ("stop", {"stop": ""}),
    ("stop", {"stop": ["a", ""]}),
    ("stop", {"stop": [1]}),
    ("stop", {"stop": ["x"] * 17}),
    ("stop", {"stop": "\ud800"}),
    ("stop", {"stop": "x" * 2_000}),
    ("stop_token_ids[1]", {"stop_token_ids": [1, True]}),
    ("stop_token_ids[0]", {"stop_token_ids": [-1]}),
    ("stop_token_ids", {"stop_token_ids": [VOCAB_SIZE]}),
    ("stop_token_ids", {"stop_token_ids": 5}),
    ("include_stop_str_in_output", {"include_stop_str_in_output": 1}),
    ("stream", {"stream": "true"}),
    ("stream_options", {"stream_options": {"include_usage": True}}),
    ("stream_options.include_usage", {"stream": True, "stream_options": {"include_usage": 1}}),
    ("stream_options.usage", {"stream": True, "stream_options": {"usage": True}}),
    ("logit_bias", {"logit_bias": {"1": 101}}),
    ("logit_bias", {"logit_bias": {"1": "5"}}),
    ("logit_bias", {"logit_bias": {"one": 5}}),
    ("logit_bias", {"logit_bias": {"01": 5}}),
    ("logit_bias", {"logit_bias": {"²": 5}}),
    ("logit_bias", {"logit_bias": {"9" * 5_000: 5}}),
    ("logit_bias", {"logit_bias": {"-1": 5}}),
    ("logit_bias", {"logit_bias": {str(VOCAB_SIZE): 5}}),
    ("logit_bias", {"logit_bias": []}),
    ("logit_bias", {"logit_bias": {str(token_id): 1 for token_id in range(1_025)}}),
    ("logit_bias", {"logit_bias": {str(i): 1 for i in range(200)}, "n": 100}),
    ("timeout", {"timeout": 0}),
    ("timeout", {"timeout": -1}),
    ("timeout", {"timeout": 3_601}),
    ("timeout", {"timeout": "5"}),
    ("timeout", {"timeout": True}),
    ("timeout", {"timeout": 10**400}),
    ("presence_penalty", {"presence_penalty": 2.1}),
    ("frequency_penalty", {"frequency_penalty": -2.1}),
    ("repetition_penalty", {"repetition_penalty": 0}),
    ("repetition_penalty", {"repetition_penalty": 1e-300}),
    ("repetition_penalty", {"repetition_penalty": 11}),
    ("min_tokens", {"min_tokens": -1}),
    ("min_tokens", {"min_tokens": 17}),
    ("min_tokens", {"min_tokens": 10**400}),
    ("ignore_eos", {"ignore_eos": 0}),
    ("return_token_ids", {"return_token_ids": "yes"}),
    ("logprobs", {"logprobs": 21}),
    ("logprobs", {"logprobs": True}),
    ("user", {"user": 5}),
    ("model", {"model": 5}),
    ("model", {"model": "\ud800"}),
    ("max_tokens", {"echo": False, "max_tokens": 0}),
    ("max_tokens", {"prompt_logprobs": 1, "max_tokens": 0}),
    ("prompt", {"prompt": [1] * 66, "echo": True, "max_tokens": 0}),
    ("prompt", {"prompt": [1] * 65, "echo": True, "max_tokens": 1}),
    ("prompt", {"prompt": [1] * 70, "truncate_prompt_tokens": 65}),
    ("prompt_logprobs", {"prompt_logprobs": 21}),
    ("prompt_logprobs", {"prompt_logprobs": -1}),
    ("prompt_logprobs", {"prompt_logprobs": True}),
    ("truncate_prompt_tokens", {"truncate_prompt_tokens": 0}),
    ("truncate_prompt_tokens", {"truncate_prompt_tokens": -2}),
    ("truncate_prompt_tokens", {"truncate_prompt_tokens": 1.5}),
    ("echo", {"echo": 0}),
    ("suffix", {"suffix": "x"}),
    ("response_format", {"response_format": {"type": "json_schema"}}),
    ("response_format", {"response_format": {"type": "text", "json_schema": SCHEMA}}),
    ("response_format.type", {"response_format": {"type": "yaml"}}),
    (
        "response_format.json_schema.name",
        {"response_format": {**TYPED, "json_schema": {"schema": {}}}},
    ),
    (
        "response_format.json_schema.schema",
        {"response_format": {**TYPED, "json_schema": {"name": "a"}}},
    ),
    ("regex", {"regex": ""}),
    ("regex", {"regex": "a" * 4_097}),
    ("regex", {"regex": "[a"}),
    ("regex", {"regex": "\ud800"}),
    ("choice[0]", {"choice": ["\ud800"]}),
    ("response_format", {"response_format": json_schema({"const": "\ud800"})}),
    ("response_format", {"response_format": json_schema({"uniqueItems": True})}),
    ("response_format", {"response_format": json_schema({"enum": ["a" * 20_000]})}),
    ("response_format", {"response_format": json_schema({"minimum": 10**400})}),
    ("regex", {"regex": "a", "choice": ["b"]}),
    ("ignore_eos", {"regex": "a", "ignore_eos": True}),
    ("choice", {"choice": []}),
    ("choice", {"choice": [""]}),
    ("choice", {"choice": ["a" * 4_097]}),
    ("choice", {"choice": "a"}),
    ("max_token", {"max_token": 5}),
    ("\\ud800", {"\ud800": 5}),
]


@pytest.mark.parametrize(("param", "fields"), BAD)
async def test_a_bad_value_is_400_and_names_its_field(
    client: httpx.AsyncClient, engine: FakeEngine, param: str, fields: dict[str, Any]
) -> None:
    body = json.dumps({"prompt": "a", **fields})
    headers = {"content-type": "application/json"}
    answer = await client.post("/v1/completions", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) <= 500
    assert engine.submitted == []


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prompt": [1, 2**31]}, "from 0 to 2147483647; prompt[1] is 2147483648"),
        ({"prompt": [[1], [2, "a"]]}, "prompt[1][1] is 'a'"),
        ({"logit_bias": {"7": 100.5}}, "from -100 to 100, that of 7 is 100.5"),
    ],
)
async def test_a_bad_item_is_told_with_its_value(
    client: httpx.AsyncClient, fields: dict[str, Any], told: str
) -> None:
    answer = await client.post("/v1/completions", json={"prompt": "a", **fields})
    assert told in answer.json()["error"]["message"]


async def test_priority_goes_with_every_choice(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    for fields in ({"priority": -3, "n": 2}, {}):
        await client.post("/v1/completions", json={"prompt": "a", **fields})
    assert engine.priorities == [-3, -3, 0]
    for value in (101, -101, 0.5):
        answer = await client.post("/v1/completions", json={"prompt": "a", "priority": value})
        assert answer.json()["error"]["param"] == "priority"


@pytest.mark.parametrize("name", sorted(NOT_BUILT))
async def test_a_field_that_is_not_built_is_refused_unless_it_asks_for_nothing(
    client: httpx.AsyncClient, name: str
) -> None:
    for value in NOT_BUILT[name]:
        answer = await client.post("/v1/completions", json={"prompt": "a", name: value})
        assert answer.status_code == 200, (name, value, answer.text)
    answer = await client.post("/v1/completions", json={"prompt": "a", name: "something"})
    assert answer.json()["error"]["code"] == "unsupported_parameter"


async def test_null_is_the_default_for_every_field_but_the_prompt(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    fields = dict.fromkeys(CompletionRequest.model_fields, None)
    answer = await client.post("/v1/completions", json={**fields, "prompt": "a"})
    assert answer.status_code == 200, answer.text
    _, params = engine.submitted[0]
    assert (params.max_tokens, params.temperature, params.top_k, params.top_p) == (16, 1.0, 0, 1.0)


async def test_whole_numbers_are_fine_where_fractions_are(client: httpx.AsyncClient) -> None:
    fields = {"temperature": 1, "top_p": 1, "presence_penalty": 0, "logit_bias": {"5": -100}}
    answer = await client.post("/v1/completions", json={"prompt": "a", **fields})
    assert answer.status_code == 200, answer.text


async def test_an_unknown_field_names_the_closest_known_one(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/completions", json={"prompt": "a", "temperatur": 1})
    assert "did you mean temperature?" in answer.json()["error"]["message"]
