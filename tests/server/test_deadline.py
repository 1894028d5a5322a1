"""``timeout``: before the first token and after it; plain, as events, scored, classified."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from engine.request import FinishReason, SamplingParams
from server.deadline import Deadline
from server.errors import ApiError
from tests.server.conftest import client_of, make_app
from tests.server.fake_engine import FakeEngine
from tests.server.test_classify import engine_with

SHORT_S = 0.05
COMPLETION = {"prompt": "a", "max_tokens": 20, "seed": 1, "timeout": SHORT_S}


def stalled(num_tokens: int) -> FakeEngine:
    """Brings so many tokens in all, and then nothing more."""
    engine = engine_with("sentiment")
    engine.gate = asyncio.Semaphore(num_tokens)
    return engine


async def post(engine: FakeEngine, route: str, body: dict[str, Any]) -> httpx.Response:
    async with client_of(make_app(engine)) as client, asyncio.timeout(10):
        return await client.post(route, json=body)


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/completions", COMPLETION),
        ("/v1/completions", {**COMPLETION, "stream": True}),
        ("/v1/completions", {**COMPLETION, "stream": True, "n": 3, "prompt": ["a", "b"]}),
        ("/v1/completions", {**COMPLETION, "stream": True, "stop": "x"}),
        ("/v1/classify", {"model": "sentiment", "input": ["a", "b"], "timeout": SHORT_S}),
    ],
)
async def test_what_has_nothing_yet_is_504(route: str, body: dict[str, Any]) -> None:
    engine = stalled(0)
    answer = await post(engine, route, body)
    assert answer.status_code == 504, answer.text
    assert answer.json()["error"]["code"] == "deadline_exceeded"
    assert "0.05 seconds" in answer.json()["error"]["message"]
    assert sorted(engine.aborted) == list(range(len(engine.submitted)))


async def test_half_a_classification_is_no_answer() -> None:
    body = {"model": "sentiment", "input": ["a", "b"], "timeout": SHORT_S}
    answer = await post(stalled(1), "/v1/classify", body)
    assert answer.status_code == 504


async def test_a_score_in_time_knows_nothing_of_its_deadline() -> None:
    body = {"input": {"context": "a", "continuation": "b"}, "timeout": 30}
    assert (await post(FakeEngine(), "/v1/score", body)).status_code == 200


async def test_a_late_score_is_504(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_args: object) -> bool:
        await asyncio.get_running_loop().create_future()
        return True

    monkeypatch.setattr(FakeEngine, "_score", never)
    body = {"input": {"context": "a", "continuation": "b"}, "timeout": SHORT_S}
    assert (await post(FakeEngine(), "/v1/score", body)).status_code == 504


async def whole_text(num_tokens: int) -> str:
    """What the undisturbed request begins with."""
    body = {**COMPLETION, "max_tokens": num_tokens, "timeout": None}
    text: str = (await post(FakeEngine(), "/v1/completions", body)).json()["choices"][0]["text"]
    return text


async def test_a_plain_answer_has_the_text_so_far() -> None:
    engine = stalled(5)
    told = (await post(engine, "/v1/completions", COMPLETION)).json()
    (choice,) = told["choices"]
    assert choice["finish_reason"] == "timeout"
    assert choice["text"] == await whole_text(5)
    assert told["usage"]["completion_tokens"] == 5
    assert engine.aborted == [0]


async def test_a_stream_ends_with_its_reason() -> None:
    answer = await post(stalled(5), "/v1/completions", {**COMPLETION, "stream": True})
    assert answer.status_code == 200
    *events, end, _ = answer.text.split("\n\n")
    assert end == "data: [DONE]"
    choices = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events]
    assert [choice["finish_reason"] for choice in choices][-1] == "timeout"
    assert "".join(choice["text"] for choice in choices) == await whole_text(5)


async def test_choices_that_had_ended_stay_as_they_were() -> None:
    """One deadline for the whole request: what is finished is whole, the others end as they are."""
    engine = FakeEngine(
        gate=asyncio.Semaphore(7),
        script=lambda prompt, params: [prompt[0]] * (3 if prompt[0] == 97 else 50),
    )
    body = {**COMPLETION, "prompt": ["a", "b"], "max_tokens": 50}
    told = (await post(engine, "/v1/completions", body)).json()
    first, second = told["choices"]
    assert (first["text"], first["finish_reason"]) == ("aaa", "length")
    assert (second["text"], second["finish_reason"]) == ("bbbb", "timeout")
    assert engine.aborted == [1]


async def test_text_held_back_for_a_stop_string_comes_out_at_the_deadline() -> None:
    engine = FakeEngine(gate=asyncio.Semaphore(3), script=lambda *_: list(b"xEND"))
    told = (await post(engine, "/v1/completions", {**COMPLETION, "stop": "END"})).json()
    assert told["choices"][0]["text"] == "xEN"


async def test_the_server_has_a_bound_for_what_asks_for_none() -> None:
    app = make_app(stalled(0), max_timeout_s=SHORT_S)
    async with client_of(app) as client, asyncio.timeout(10):
        answer = await client.post("/v1/completions", json={"prompt": "a"})
        refused = await client.post("/v1/completions", json={"prompt": "a", "timeout": 1})
    assert answer.status_code == 504
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "timeout"
    assert "at most 0.05 seconds, got 1" in refused.json()["error"]["message"]


async def test_timeouts_are_counted() -> None:
    async with client_of(make_app(stalled(5))) as client:
        await client.post("/v1/completions", json=COMPLETION)
        metrics = (await client.get("/metrics")).text
    assert 'finish_reason="timeout",model_name="tiny"} 1.0' in metrics


async def test_it_counts_from_now() -> None:
    now_s = asyncio.get_running_loop().time()
    assert Deadline.after(5, 10).at_s == pytest.approx(now_s + 5, abs=1)
    assert Deadline.after(None, 10).timeout_s == 10
    with pytest.raises(ApiError):
        Deadline.after(10.1, 10)


async def test_a_stream_that_is_aborted_for_a_reason_says_it() -> None:
    (stream,) = stalled(0).submit_all([((1,), SamplingParams())])
    stream.abort(FinishReason.TIMEOUT)
    stream.abort()
    assert [output.finish_reason async for output in stream] == [FinishReason.TIMEOUT]
