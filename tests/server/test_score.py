"""POST /v1/score: which tokens are asked about, what comes back, what is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from engine.errors import QueueFull
from engine.request import TokenLogprob
from tests.server.conftest import client_of, make_app, serving
from tests.server.fake_engine import EOS_ID, VOCAB_SIZE, FakeEngine


async def score(client: httpx.AsyncClient, inputs: Any, **fields: Any) -> dict[str, Any]:
    answer = await client.post("/v1/score", json={"input": inputs, **fields})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def test_one_input(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    told = await score(client, {"context": "ab", "continuation": "cé"})
    assert (told["object"], told["model"], told["system_fingerprint"]) == (
        "list", "tiny", "fp-test"
    )  # fmt: skip
    (result,) = told["data"]
    assert result == {
        "index": 0,
        "log_likelihood": pytest.approx(-1.599 - 1.695 - 1.669),
        "num_tokens": 3,
        "is_greedy": False,
        "tokens": ["c", r"bytes:\xc3", r"bytes:\xa9"],
        "token_logprobs": [-1.599, -1.695, -1.669],
    }
    assert told["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 0,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    ((ids, params),) = engine.submitted
    assert ids == tuple("abcé".encode())
    assert (params.max_tokens, params.num_prompt_logprobs, params.scored_from) == (0, 1, 2)


@pytest.mark.parametrize(
    ("given", "ids", "scored_from"),
    [
        ({"continuation": "ab"}, (EOS_ID, 97, 98), 1),
        ({"context": "", "continuation": [5]}, (EOS_ID, 5), 1),
        ({"context": [], "continuation": [5]}, (EOS_ID, 5), 1),
        ({"context": [1, 2], "continuation": [3]}, (1, 2, 3), 2),
        ({"context": [1, 2], "continuation": "a"}, (1, 2, 97), 2),
        ({"context": "ab", "continuation": [3]}, (97, 98, 3), 2),
    ],
)
async def test_texts_and_ids_in_any_mixture(
    client: httpx.AsyncClient,
    engine: FakeEngine,
    given: dict[str, Any],
    ids: tuple[int, ...],
    scored_from: int,
) -> None:
    await score(client, given)
    assert engine.submitted[0][0] == ids
    assert engine.submitted[0][1].scored_from == scored_from


class Merging:
    """Bytes, but "lo" is one token (256) and "he" is one (257)."""

    vocab_size = VOCAB_SIZE

    def encode(self, text: str) -> list[int]:
        found = text.replace("lo", "\x80").replace("he", "\x81")
        return [{"\x80": 256, "\x81": 257}.get(char, ord(char)) for char in found]

    def token_bytes(self, token_id: int, /) -> bytes:
        return {256: b"lo", 257: b"he"}.get(token_id) or bytes([token_id % 256])


async def test_a_token_across_the_border_belongs_to_the_continuation(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.server.conftest.ByteTokenizer", Merging)
    async with client_of(make_app(engine)) as client:
        told = await score(client, {"context": "hel", "continuation": "lo"})
        await score(client, {"context": "hel", "continuation": "ow"})
        await score(client, {"context": "h", "continuation": "el"})
    assert [ids for ids, _ in engine.submitted] == [
        (257, ord("l"), 256),
        (257, 256, ord("w")),  # "lo" has a byte of both
        (ord("h"), ord("e"), ord("l")),  # nothing would stand before it: encoded apart
    ]
    assert [params.scored_from for _, params in engine.submitted] == [2, 1, 1]
    assert told["data"][0]["tokens"] == ["lo"]


async def test_several_inputs_are_admitted_together(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    inputs = [{"context": "abc", "continuation": text} for text in ("d", "ef", "g")]
    told = await score(client, inputs)
    assert [one["index"] for one in told["data"]] == [0, 1, 2]
    assert [one["num_tokens"] for one in told["data"]] == [1, 2, 1]
    assert len(engine.submitted) == 3


async def test_greedy_means_that_every_token_is_the_likeliest(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def likeliest(token_id: int, _num_top: int) -> TokenLogprob:
        top_id = token_id if token_id != ord("x") else 1
        return TokenLogprob(-1.0, ((top_id, -1.0),))

    monkeypatch.setattr("tests.server.fake_engine.prompt_logprob", likeliest)
    inputs = [{"context": "a", "continuation": text} for text in ("bc", "bx", "x")]
    told = await score(client, inputs)
    assert [one["is_greedy"] for one in told["data"]] == [True, False, False]


async def test_an_impossible_token_is_null(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_token_id: int, _num_top: int) -> TokenLogprob:
        return TokenLogprob(float("-inf"), ((1, -1.0),))

    monkeypatch.setattr("tests.server.fake_engine.prompt_logprob", never)
    told = await score(client, {"context": "a", "continuation": "b"})
    assert told["data"][0]["log_likelihood"] is None
    assert told["data"][0]["token_logprobs"] == [None]


async def test_a_long_context_is_cut_where_that_is_asked_for(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    inputs = {"context": "a" * 500 + "b", "continuation": "cd"}
    told = await score(client, inputs, truncate_prompt_tokens=4)
    assert engine.submitted[0][0] == tuple(b"abcd")
    assert engine.submitted[0][1].scored_from == 2
    assert told["usage"]["prompt_tokens_details"]["truncated_tokens"] == 499
    await score(client, inputs, truncate_prompt_tokens=-1)
    assert len(engine.submitted[1][0]) == 65  # the last token needs no position


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("input", {}),
        ("input", {"input": []}),
        ("input", {"input": "text"}),
        ("input", {"input": 5}),
        ("input[0].continuation", {"input": {"context": "a"}}),
        (
            "input[1].contxt",
            {"input": [{"continuation": "a"}, {"continuation": "a", "contxt": "a"}]},
        ),
        ("input[0].context", {"input": {"context": 5, "continuation": "a"}}),
        ("input[0].context", {"input": {"context": [True], "continuation": "a"}}),
        ("input[0].context", {"input": {"context": "\ud800", "continuation": "a"}}),
        ("input[0].continuation", {"input": {"continuation": "a\0"}}),
        ("input", {"input": {"context": "a", "continuation": ""}}),
        ("input", {"input": {"context": "a", "continuation": []}}),
        ("input", {"input": {"context": [VOCAB_SIZE], "continuation": "a"}}),
        ("input", {"input": {"context": "a" * 60, "continuation": "a" * 6}}),
        ("input", {"input": [{"continuation": "a"}] * 129}),
        ("truncate_prompt_tokens", {"truncate_prompt_tokens": 0}),
        ("truncate_prompt_tokens", {"input": {"continuation": "abc"}, "truncate_prompt_tokens": 3}),
        ("inputs", {"inputs": 1}),
    ],
)
async def test_a_bad_value_is_400_and_names_its_field(
    client: httpx.AsyncClient, engine: FakeEngine, param: str, body: dict[str, Any]
) -> None:
    good = {"input": {"context": "a", "continuation": "b"}} if "input" not in body and body else {}
    headers = {"content-type": "application/json"}
    answer = await client.post("/v1/score", content=json.dumps(good | body), headers=headers)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert len(error["message"]) <= 500
    assert engine.submitted == []


async def test_another_model_is_404(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/score", json={"model": "x", "input": {"continuation": "a"}})
    assert answer.status_code == 404


async def test_a_full_queue_is_told(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.refusal = QueueFull("at most 2 requests may wait; there would be 3", 4.0)
    answer = await client.post("/v1/score", json={"input": {"continuation": "a"}})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "4")


async def test_a_lost_request_is_one_error(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    async def lose(*_: object) -> bool:
        engine.fail_all("the engine lost it")
        return True

    engine._score = lose  # type: ignore[method-assign, assignment]
    answer = await client.post("/v1/score", json={"input": {"continuation": "a"}})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "request_failed"


async def test_a_client_that_leaves_frees_its_slots(engine: FakeEngine) -> None:
    started = asyncio.Event()

    async def wait(*_: object) -> bool:
        started.set()
        await asyncio.Event().wait()
        return True

    engine._score = wait  # type: ignore[method-assign, assignment]
    body = {"input": [{"continuation": "a"}, {"continuation": "b"}]}
    async with serving(make_app(engine)) as address, httpx.AsyncClient() as client:
        asking = asyncio.create_task(client.post(f"{address}/v1/score", json=body))
        await started.wait()
        asking.cancel()
        await engine.was_aborted.wait()
    assert sorted(engine.aborted) == [0, 1]
