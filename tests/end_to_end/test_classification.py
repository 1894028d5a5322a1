"""Tasks on a live server beside generation: the same answers alone, together and after a death."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import torch

from model.attention import CausalAttention
from model.heads import TaskHead, head_shape
from model.network import gpt_with
from model.tasks import TaskConfig, outcome, sequences
from model.tokenizer import Tokenizer
from tests.support.live_server import ROOT, LiveServer, live_server
from weights.checkpoint import open_checkpoint
from weights.task import TrainedTask, save_task
from weights.task_description import HEAD_BIAS, HEAD_WEIGHT, SPECIAL

BUNDLED = ROOT / "weights" / "bundled"
TASKS = {
    "mood": TaskConfig("classification", 64, labels=("bad", "good", "mixed")),
    "nli": TaskConfig("entailment", 64, labels=("yes", "no")),
    "sts": TaskConfig(
        "similarity", 64, is_regression=True, score_range=(0.0, 5.0), join="concatenate"
    ),
    "copa": TaskConfig("multiple_choice", 64),
}
INPUTS: dict[str, Any] = {
    "mood": [{"text": f"It was a dark night, number {i}."} for i in range(6)],
    "nli": {"premise": "The old man sat by the fire.", "hypothesis": "Somebody was warm."},
    "sts": {"text_a": "A dog ran over the field.", "text_b": "A hound crossed the meadow."},
    "copa": {"context": "The ship sank.", "choices": ["It had a leak.", "It was blue.", "Yes."]},
}


def parts_of(tensors: dict[str, torch.Tensor], config: TaskConfig, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = head_shape(config, 256)
    tensors[SPECIAL] = torch.randn(3, 256, generator=generator) * 0.1
    tensors[HEAD_WEIGHT] = torch.randn(shape, generator=generator) * 0.02
    tensors[HEAD_BIAS] = torch.randn(shape[0], generator=generator) * 0.1


@pytest.fixture(scope="module")
def trained() -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of each task."""
    made: dict[str, dict[str, torch.Tensor]] = {name: {} for name in TASKS}
    for seed, (name, tensors) in enumerate(made.items()):
        parts_of(tensors, TASKS[name], seed)
    return made


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, trained: dict[str, dict[str, torch.Tensor]]
) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("tasks")
    bundled = open_checkpoint(BUNDLED)
    options = []
    for name, tensors in trained.items():
        task = TrainedTask(name, TASKS[name], "head", tensors, bundled.config, bundled.weights_hash)
        save_task(folder / name, task, {"origin": "a test"})
        options += ["--task", f"{name}={folder / name}"]
    with live_server(BUNDLED, "--dtype", "float32", *options) as live:
        yield live


def classify(server: LiveServer, name: str, given: Any) -> list[dict[str, Any]]:
    body = {"model": name, "input": given}
    answer = httpx.post(f"{server.url}/v1/classify", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


def texts_of(given: Any) -> list[str]:
    return [
        text for value in given.values() for text in (value if isinstance(value, list) else [value])
    ]


@torch.inference_mode()
def expected(name: str, given: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """By the whole network at once."""
    bundled, tokenizer = open_checkpoint(BUNDLED), Tokenizer.from_directory(BUNDLED)
    gpt = gpt_with(bundled.config, {key: t.float() for key, t in bundled.tensors.items()})
    table = torch.cat((gpt.wte.weight, tensors[SPECIAL]))
    gpt.wte = torch.nn.Embedding(*table.shape)
    gpt.wte.weight = torch.nn.Parameter(table)
    config = TASKS[name]
    head = TaskHead(config, tensors[HEAD_WEIGHT], tensors[HEAD_BIAS])
    parts = tuple(tuple(tokenizer.encode(text)) for text in texts_of(given))
    logits = []
    for order, ids in enumerate(sequences(config, parts, bundled.config.vocab_size)):
        attend = CausalAttention(bundled.config, len(ids))
        hidden = gpt(torch.tensor(ids), torch.arange(len(ids)), attend)[-1:]
        logits.append(head.logits(hidden, [order])[0].tolist())
    return outcome(config, logits)


@pytest.mark.parametrize("name", TASKS)
def test_answers_are_the_network_s(
    server: LiveServer, name: str, trained: dict[str, dict[str, torch.Tensor]]
) -> None:
    given = INPUTS[name][0] if name == "mood" else INPUTS[name]
    (found,) = classify(server, name, given)
    wanted = expected(name, given, trained[name])
    assert found["label"] == wanted.label
    assert found["score"] == pytest.approx(wanted.score, abs=1e-4)
    assert found.get("probabilities", {}) == pytest.approx(dict(wanted.probabilities), abs=1e-4)


async def test_answers_are_the_same_beside_streams_and_after_a_death(server: LiveServer) -> None:
    alone = {name: classify(server, name, given) for name, given in INPUTS.items()}
    one_by_one = [
        classify(server, "mood", [one])[0] | {"index": i} for i, one in enumerate(INPUTS["mood"])
    ]
    assert one_by_one == alone["mood"]
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

        async def generate(seed: int) -> str:
            body = {"prompt": "The night", "max_tokens": 60, "seed": seed}
            answer = await client.post("/v1/completions", json=body)
            text: str = answer.json()["choices"][0]["text"]
            return text

        async def ask(name: str) -> list[dict[str, Any]]:
            answer = await client.post("/v1/classify", json={"model": name, "input": INPUTS[name]})
            data: list[dict[str, Any]] = answer.json()["data"]
            return data

        texts = [await generate(seed) for seed in range(4)]
        jobs = [*map(generate, range(4)), *(ask(name) for name in (*TASKS, *TASKS, *TASKS))]
        running = asyncio.gather(*jobs)
        await asyncio.sleep(0)
        server.engine.kill()
        together = await running
    assert together[:4] == texts
    assert together[4:] == [*alone.values()] * 3
