"""POST /v1/completions in process: one law for streams, usage, seeds, context, failures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec
import pytest

from engine.errors import EngineDown, EngineFailed, InvalidParams, PromptTooLong, QueueFull
from engine.request import SamplingParams
from tests.server.conftest import client_of, make_app
from tests.server.fake_engine import EOS_ID, INFO, FakeEngine


async def complete(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await client.post("/v1/completions", json={"prompt": "a", "seed": 7, **fields})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def events(client: httpx.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream; checks the frame around them."""
    body = {"prompt": "a", "seed": 7, "stream": True, **fields}
    answer = await client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    *parts, end, rest = answer.text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [json.loads(part.removeprefix("data: ")) for part in parts if part != ": ping"]


def fold(told: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choices from events, joined by hand: each must end exactly once, and then be silent."""
    folded: dict[int, dict[str, Any]] = {}
    for choice in (choice for event in told for choice in event["choices"]):
        whole = folded.setdefault(choice["index"], choice)
        if whole is choice:
            continue
        assert whole["finish_reason"] is None, "it went on after its end"
        assert "prompt_token_ids" not in choice
        whole["finish_reason"] = choice["finish_reason"]
        for name in {"text", "token_ids", "prompt_logprobs"} & whole.keys():
            whole[name] += choice[name]
        if whole["logprobs"] is not None:
            for name, values in choice["logprobs"].items():
                whole["logprobs"][name] += values
    return [folded[index] for index in sorted(folded)]


LAW = [
    {},
    {"max_tokens": 60, "n": 3},
    {"prompt": ["a", "bc"], "n": 2, "return_token_ids": True},
    {"max_tokens": 60, "n": 8, "stop": ["w1", " w", "🙂", "é", "a"]},
    {"max_tokens": 60, "n": 4, "stop": " w2", "include_stop_str_in_output": True},
    {"max_tokens": 60, "n": 4, "stop": [" w"], "min_tokens": 20, "logprobs": 3},
    {"n": 3, "logprobs": 0, "return_token_ids": True, "stop": ["\n", "w"]},
    {"prompt": [[1, 2], [3]], "stop_token_ids": list(range(60, 160)), "n": 3},
]


@pytest.mark.parametrize("fields", LAW)
@pytest.mark.parametrize("tokens_per_output", [1, 3])
async def test_the_plain_answer_is_the_folded_stream(
    fields: dict[str, Any], tokens_per_output: int
) -> None:
    engine = FakeEngine(tokens_per_output=tokens_per_output)
    async with client_of(make_app(engine)) as client:
        plain = await complete(client, **fields)
        streamed = await events(client, **fields, stream_options={"include_usage": True})
    assert streamed[-1]["choices"] == []
    assert streamed[-1]["usage"] == plain["usage"]
    assert all(event["usage"] is None for event in streamed[:-1])
    assert fold(streamed) == plain["choices"]
    assert all(choice["finish_reason"] for choice in plain["choices"])


async def test_the_same_seed_gives_the_same_answer_and_none_gives_one_to_replay(
    client: httpx.AsyncClient,
) -> None:
    drawn = (await complete(client, seed=None))["choices"][0]
    again = (await complete(client, seed=drawn["seed"]))["choices"][0]
    assert drawn == again
    assert (await complete(client, seed=None))["choices"][0]["seed"] != drawn["seed"]


async def test_a_prompt_in_a_list_is_answered_as_alone(client: httpx.AsyncClient) -> None:
    together = (await complete(client, prompt=["x", "yz"], n=2))["choices"]
    alone = (await complete(client, prompt="yz", n=2))["choices"]
    assert [choice["index"] for choice in together] == [0, 1, 2, 3]
    assert [choice["text"] for choice in together[2:]] == [choice["text"] for choice in alone]


def says(*tokens: bytes) -> FakeEngine:
    """An engine that answers these tokens, each of one byte or the end of text."""
    ids = [EOS_ID if token == b"<|endoftext|>" else token[0] for token in tokens]
    return FakeEngine(script=lambda _prompt, params: ids[: params.max_tokens])


async def test_usage_counts_up_to_the_token_that_completes_the_stop() -> None:
    engine = says(b"a", b"E", b"N", b"D", b"b", b"c")
    engine.tokens_per_output = 6
    async with client_of(make_app(engine)) as client:
        told = await complete(client, stop="END", return_token_ids=True)
        metrics = (await client.get("/metrics")).text
    assert told["choices"][0]["text"] == "a"
    assert told["choices"][0]["finish_reason"] == "stop"
    assert told["choices"][0]["token_ids"] == list(b"aEND")
    assert told["usage"]["completion_tokens"] == 4
    assert 'gpt2_overrun_tokens_total{model_name="tiny"} 2.0' in metrics
    assert 'gpt2_generation_tokens_total{model_name="tiny"} 4.0' in metrics


async def test_a_stop_string_aborts_the_request_in_the_engine() -> None:
    engine = says(*[b"a", b".", *[b"b"] * 40])
    async with client_of(make_app(engine)) as client:
        await complete(client, stop=".", max_tokens=40)
    assert engine.aborted == [0]


async def test_the_end_of_text_is_a_token_and_not_text() -> None:
    engine = says(b"a", b"<|endoftext|>")
    async with client_of(make_app(engine)) as client:
        told = await complete(client, return_token_ids=True, logprobs=1)
        included = await complete(client, include_stop_str_in_output=True)
    choice = told["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("a", "stop")
    assert choice["token_ids"] == [97, EOS_ID]
    assert choice["logprobs"]["tokens"] == ["a", "<|endoftext|>"]
    assert told["usage"]["completion_tokens"] == 2
    assert included["choices"][0]["text"] == "a<|endoftext|>"


async def test_logprobs_have_openais_shape_and_only_finite_numbers() -> None:
    smile = "🙂".encode()
    engine = says(b"a", *[smile[i : i + 1] for i in range(4)], b"b")
    async with client_of(make_app(engine)) as client:
        told = await complete(client, logprobs=2)
    logprobs = told["choices"][0]["logprobs"]
    parts = [f"bytes:\\x{byte:02x}" for byte in smile]
    assert logprobs["tokens"] == ["a", *parts, "b"]
    assert logprobs["text_offset"] == [0, 1, 1, 1, 1, 2]
    assert logprobs["token_logprobs"][0] == -1.5 - 97 / 1000
    assert logprobs["top_logprobs"][0] == {"\0": -0.0, "\x01": None, "a": -1.5 - 97 / 1000}


@pytest.mark.parametrize("prompt", ["", [], [""], [[]]])
async def test_an_empty_prompt_is_the_end_of_text_token(
    client: httpx.AsyncClient, engine: FakeEngine, prompt: object
) -> None:
    told = await complete(client, prompt=prompt)
    assert engine.submitted[0][0] == (EOS_ID,)
    assert told["usage"]["prompt_tokens"] == 1


async def test_an_empty_prompt_is_refused_without_an_end_of_text_token() -> None:
    engine = FakeEngine(info=msgspec.structs.replace(INFO, eos_token_ids=()))
    async with client_of(make_app(engine)) as client:
        answer = await client.post("/v1/completions", json={"prompt": ""})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt"


@pytest.mark.parametrize(("prompt_len", "num_new"), [(1, 64), (63, 2), (64, 1)])
async def test_max_tokens_is_clipped_to_the_context_and_one(
    client: httpx.AsyncClient, prompt_len: int, num_new: int
) -> None:
    told = await complete(client, prompt=[5] * prompt_len, max_tokens=10**40)
    assert told["usage"]["completion_tokens"] == num_new
    assert told["choices"][0]["finish_reason"] == "length"


async def test_a_long_prompt_names_limit_and_value(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/completions", json={"prompt": [5] * 65})
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "64" in error["message"]
    assert "65" in error["message"]


async def test_an_id_outside_the_vocabulary_names_index_value_and_limit(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post("/v1/completions", json={"prompt": [[1], [5, 300]]})
    message = answer.json()["error"]["message"]
    assert all(part in message for part in ("prompt 1", "index 1", "299", "300"))


async def test_cached_tokens_are_those_of_the_first_choice_of_each_prompt(
    client: httpx.AsyncClient,
) -> None:
    told = await complete(client, prompt=["abc", "d"], n=3)
    assert told["usage"]["prompt_tokens"] == 4
    assert told["usage"]["prompt_tokens_details"] == {"cached_tokens": 2 + 1}


async def test_every_parameter_reaches_the_engine(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await complete(
        client,
        max_tokens=9,
        temperature=0.5,
        top_k=-1,
        top_p=0.9,
        min_p=0.1,
        stop_token_ids=[3],
        ignore_eos=True,
        min_tokens=2,
        logit_bias={"4": -1},
        repetition_penalty=1.5,
        presence_penalty=0.25,
        frequency_penalty=-0.5,
        logprobs=5,
        seed=11,
        n=2,
    )
    expected = SamplingParams(
        max_tokens=9,
        temperature=0.5,
        top_k=0,
        top_p=0.9,
        min_p=0.1,
        seed=11,
        stop_token_ids=(3,),
        ignore_eos=True,
        min_tokens=2,
        logit_bias=((4, -1.0),),
        repetition_penalty=1.5,
        presence_penalty=0.25,
        frequency_penalty=-0.5,
        num_logprobs=5,
    )
    second = msgspec.structs.replace(expected, choice_index=1)
    assert [params for _, params in engine.submitted] == [expected, second]


async def test_without_a_vocabulary_ids_are_served() -> None:
    async with client_of(make_app(FakeEngine(), has_text=False)) as client:
        told = await complete(client, prompt=[1, 2], max_tokens=3, logprobs=0)
        refused = [
            await client.post("/v1/completions", json={"prompt": "a"}),
            await client.post("/v1/completions", json={"prompt": [1], "stop": "a"}),
        ]
    choice = told["choices"][0]
    assert choice["text"] == ""
    assert len(choice["token_ids"]) == 3
    assert choice["logprobs"]["tokens"] == [f"token_id:{i}" for i in choice["token_ids"]]
    assert [answer.status_code for answer in refused] == [400, 400]
    assert [answer.json()["error"]["param"] for answer in refused] == ["prompt", "stop"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidParams("no", "top_k"), 400),
        (PromptTooLong("no"), 400),
        (QueueFull("no", 3.0), 429),
        (EngineDown("no"), 503),
        (EngineFailed(["no"]), 503),
    ],
)
async def test_what_is_not_admitted_is_a_status_and_no_stream(error: Any, status: int) -> None:
    async with client_of(make_app(FakeEngine(refusal=error))) as client:
        answer = await client.post("/v1/completions", json={"prompt": "a", "stream": True})
        metrics = (await client.get("/metrics")).text
    assert answer.status_code == status
    assert ("retry-after" in answer.headers) == (status in {429, 503})
    reason = answer.json()["error"]["code"]
    assert f'gpt2_admission_rejections_total{{model_name="tiny",reason="{reason}"}} 1.0' in metrics


@pytest.mark.parametrize("route", ["/v1/completions", "/v1/score", "/v1/classify"])
async def test_a_full_queue_says_so_before_anybody_reads_the_body(route: str) -> None:
    headers = {"Content-Type": "application/json"}
    async with client_of(make_app(FakeEngine(is_full=True))) as client:
        answer = await client.post(route, content=b"this is no JSON", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert answer.headers["retry-after"] == "3"


async def test_a_lost_request_is_one_error_event_after_what_it_brought() -> None:
    async with client_of(make_app(FakeEngine(fail_after=3))) as client:
        *told, error = await events(client, prompt="a", return_token_ids=True)
        plain = await client.post("/v1/completions", json={"prompt": "a"})
    assert sum(len(event["choices"][0]["token_ids"]) for event in told) == 3
    assert error == {
        "error": {
            "message": "the engine lost it",
            "type": "server_error",
            "param": None,
            "code": "request_failed",
        }
    }
    assert plain.status_code == 503


async def test_text_held_back_comes_out_before_the_error() -> None:
    engine = says(b"a", b"E", b"N", b"D")
    engine.fail_after = 3
    async with client_of(make_app(engine)) as client:
        *told, error = await events(client, prompt="a", stop="END")
    assert "".join(event["choices"][0]["text"] for event in told) == "aEN"
    assert "error" in error


async def test_text_held_back_comes_out_at_the_end() -> None:
    async with client_of(make_app(says(b"a", b"E", b"N"))) as client:
        told = await complete(client, stop="END")
    assert told["choices"][0]["text"] == "aEN"
    assert told["choices"][0]["finish_reason"] == "length"


async def test_a_fault_of_our_own_is_a_500_that_keeps_its_secrets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_args: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("server.choice.Choice.feed", broken)
    async with client_of(make_app(FakeEngine())) as client:
        headers = {"X-Request-Id": "mine"}
        answer = await client.post("/v1/completions", json={"prompt": "a"}, headers=headers)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert answer.headers["x-request-id"] == "mine"
    assert "secret" not in answer.text
    assert "request mine failed" in caplog.text


async def test_while_the_model_loads_the_answer_is_503() -> None:
    engine = FakeEngine(info=None)
    app = make_app(engine)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://test"
    ) as client:
        answer = await client.post("/v1/completions", json={"prompt": "a"})
        ready = await client.get("/ready")
        health = await client.get("/health")
    assert (answer.status_code, ready.status_code, health.status_code) == (503, 503, 200)
    assert answer.headers["retry-after"] == "2"


@pytest.mark.parametrize("name", ["tiny", None])
async def test_the_served_model_may_be_named_or_not(
    client: httpx.AsyncClient, name: str | None
) -> None:
    assert (await complete(client, model=name))["model"] == "tiny"


async def test_another_model_is_404(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/completions", json={"prompt": "a", "model": "gpt-4"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


async def test_aliases_are_understood() -> None:
    app = make_app(FakeEngine(), served_model_name="nice,other")
    async with client_of(app) as client:
        for name in ("nice", "other", "tiny"):
            assert (await complete(client, model=name))["model"] == "nice"
