"""POST /v1/classify: the sequences of every form, what comes back, what is refused."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import httpx
import msgspec
import pytest

from engine.errors import QueueFull
from engine.messages import TaskInfo
from engine.request import TaskParams
from model.tasks import TaskConfig
from tests.server.conftest import client_of, make_app, serving
from tests.server.fake_engine import INFO, VOCAB_SIZE, FakeEngine

FORMS = {
    "sentiment": TaskConfig("classification", 16, labels=("negative", "positive")),
    "nli": TaskConfig("entailment", 16, labels=("yes", "no")),
    "sts": TaskConfig("similarity", 16, is_regression=True, score_range=(0.0, 5.0), join="sum"),
    "copa": TaskConfig("multiple_choice", 16),
}
START = {name: VOCAB_SIZE + 3 * index for index, name in enumerate(FORMS)}


def engine_with(*names: str) -> FakeEngine:
    tasks = tuple(
        TaskInfo(name, FORMS[name].to_dict(), START[name], 16, "head", "h", f"fp-{name}", "a test")
        for name in names
    )
    return FakeEngine(info=msgspec.structs.replace(INFO, tasks=tasks))


@pytest.fixture
def engine() -> FakeEngine:
    return engine_with(*FORMS)


async def classify(client: httpx.AsyncClient, model: str | None, given: Any) -> dict[str, Any]:
    body = {"input": given} if model is None else {"model": model, "input": given}
    answer = await client.post("/v1/classify", json=body)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def ids(name: str, *parts: str) -> tuple[int, ...]:
    start = START[name]
    joined: list[int] = []
    for part in parts:
        joined += [start + 1] * bool(joined) + list(part.encode())
    return (start, *joined, start + 2)


async def test_classification_of_one_text(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    told = await classify(client, "sentiment", "good")
    assert (told["object"], told["model"], told["system_fingerprint"]) == (
        "list", "sentiment", "fp-sentiment"
    )  # fmt: skip
    (result,) = told["data"]
    share = 1 / (1 + math.exp(-1))
    assert result == {
        "index": 0,
        "label": "positive",
        "score": pytest.approx(share),
        "probabilities": {"negative": pytest.approx(1 - share), "positive": pytest.approx(share)},
    }
    assert told["usage"] == {
        "prompt_tokens": 6,
        "completion_tokens": 0,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    assert engine.classified == [(ids("sentiment", "good"), TaskParams("sentiment"))]


async def test_a_list_is_answered_in_order(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    told = await classify(client, "sentiment", ["ab", {"text": "c"}, {"text": [7, 8]}])
    assert [one["index"] for one in told["data"]] == [0, 1, 2]
    assert [given for given, _ in engine.classified] == [
        ids("sentiment", "ab"),
        ids("sentiment", "c"),
        (START["sentiment"], 7, 8, START["sentiment"] + 2),
    ]


async def test_entailment(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await classify(client, "nli", {"premise": "ab", "hypothesis": "c"})
    assert engine.classified == [(ids("nli", "ab", "c"), TaskParams("nli"))]


async def test_similarity_runs_both_orders(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    told = await classify(client, "sts", {"text_a": "ab", "text_b": "c"})
    assert engine.classified == [
        (ids("sts", "ab", "c"), TaskParams("sts", 0)),
        (ids("sts", "c", "ab"), TaskParams("sts", 1)),
    ]
    assert told["data"] == [{"index": 0, "label": None, "score": 2.5}]  # twice 0.25 of 0 to 5


async def test_multiple_choice(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    told = await classify(client, "copa", {"context": "x", "choices": ["a", "c", "b"]})
    assert [given for given, _ in engine.classified] == [
        ids("copa", "x", choice) for choice in ("a", "c", "b")
    ]
    (result,) = told["data"]
    assert result["label"] == "1"
    assert result["probabilities"].keys() == {"0", "1", "2"}
    assert sum(result["probabilities"].values()) == pytest.approx(1)


async def test_what_is_too_long_is_cut_as_the_task_says(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await classify(client, "sentiment", "x" * 500)
    ((given, _),) = engine.classified
    assert given == ids("sentiment", "x" * 14)


async def test_the_only_task_needs_no_name() -> None:
    engine = engine_with("nli")
    async with client_of(make_app(engine)) as client:
        told = await classify(client, None, {"premise": "a", "hypothesis": "b"})
    assert told["model"] == "nli"


@pytest.mark.parametrize(
    ("body", "status", "param", "said"),
    [
        ({"model": "sentiment"}, 400, "input", "input is required"),
        ({"input": "a"}, 400, "model", "model is required, one of the tasks that are served: sent"),
        ({"model": "tiny", "input": "a"}, 404, "model", "must be one of the tasks that are served"),
        ({"model": "sentiment", "input": []}, 400, "input", "must come to 1 to 128 inputs, got 0"),
        ({"model": "sentiment", "input": ["a"] * 129}, 400, "input", "1 to 128 inputs, got 129"),
        ({"model": "sentiment", "input": ""}, 400, "input", "input[0].text must not be empty"),
        ({"model": "nli", "input": "a"}, 400, "input", "must have premise and hypothesis and"),
        (
            {"model": "nli", "input": {"premise": "a", "hypothesis": "b", "text": "c"}},
            400,
            "input",
            "it has text, premise, hypothesis",
        ),
        (
            {"model": "copa", "input": {"context": "a", "choices": ["b"]}},
            400,
            "input",
            "multiple_choice needs at least 2 choices, got 1",
        ),
        (
            {"model": "copa", "input": {"context": "a", "choices": ["b"] * 200}},
            400,
            "input",
            "must come to 1 to 128 sequences, got 200",
        ),
        ({"model": "sentiment", "input": {"txt": "a"}}, 400, "input[0].txt", "unknown field"),
        ({"model": "sentiment", "input": {"text": [300]}}, 400, "input", "from 0 to 299, got 300"),
        ({"model": "sentiment", "input": 3}, 400, "input[0]", "got 3"),
        ({"model": "sentiment", "input": "a\0b"}, 400, "input[0].text", "NUL"),
        ({"model": "sentiment", "input": "a", "n": 2}, 400, "n", "unknown field"),
    ],
)
async def test_bad_input_is_refused_by_name(
    client: httpx.AsyncClient,
    engine: FakeEngine,
    body: dict[str, Any],
    status: int,
    param: str,
    said: str,
) -> None:
    answer = await client.post("/v1/classify", json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert said in error["message"]
    assert error["param"] == param
    assert len(error["message"]) < 300
    assert not engine.classified


async def test_without_tasks_it_says_how_to_add_one() -> None:
    async with client_of(make_app(FakeEngine())) as client:
        answer = await client.post("/v1/classify", json={"input": "a"})
    assert answer.status_code == 400
    assert "serve --task NAME=DIR adds one" in answer.json()["error"]["message"]


async def test_a_full_queue_is_429(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.refusal = QueueFull("full", 2.0)
    answer = await client.post("/v1/classify", json={"model": "sentiment", "input": "a"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")


async def test_a_lost_sequence_is_one_error(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.fail_after = 0
    answer = await client.post("/v1/classify", json={"model": "sentiment", "input": ["a", "b"]})
    assert answer.status_code == 503
    assert "the engine lost it" in answer.json()["error"]["message"]


async def test_a_client_that_leaves_frees_its_sequences(engine: FakeEngine) -> None:
    engine.gate = asyncio.Semaphore(0)
    async with serving(make_app(engine)) as address, httpx.AsyncClient() as client:
        body = {"model": "sentiment", "input": ["a", "b"]}
        asking = asyncio.create_task(client.post(f"{address}/v1/classify", json=body))
        while len(engine.classified) < 2:
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait_for(engine.was_aborted.wait(), 10)
    assert sorted(set(engine.aborted)) == [0, 1]


async def test_models_and_metrics_know_the_tasks(client: httpx.AsyncClient) -> None:
    await classify(client, "sentiment", ["ab", "c"])
    listed = (await client.get("/v1/models")).json()["data"]
    assert [one["id"] for one in listed] == ["tiny", *FORMS]
    one = (await client.get("/v1/models/nli")).json()
    assert (one["parent"], one["task"]["labels"]) == ("tiny", ["yes", "no"])
    metrics = (await client.get("/metrics")).text
    assert 'gpt2_classifications_total{head="sentiment",model_name="tiny"} 2.0' in metrics
    assert 'gpt2_classify_duration_seconds_count{model_name="tiny"} 1.0' in metrics
