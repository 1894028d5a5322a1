"""Scores over HTTP: what transformers gives on the same weights, and the same bits every way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from transformers import GPT2LMHeadModel

from model.tokenizer import Tokenizer
from tests.support.live_server import ROOT, LiveServer, live_server
from weights.export import export

BUNDLED = ROOT / "weights" / "bundled"
TEXT = (ROOT / "LICENSE").read_text() + "\u201cNa\u00efve,\u201d he said. \u2014 Caf\u00e9!"


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server(BUNDLED, "--dtype", "float32") as live:
        yield live


def post(server: LiveServer, route: str, **body: Any) -> dict[str, Any]:
    response = httpx.post(f"{server.url}{route}", json=body, timeout=60)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_an_echo_is_scored_as_transformers_does(server: LiveServer, tmp_path: Path) -> None:
    export(BUNDLED, tmp_path / "hf")
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    ids = Tokenizer.from_directory(BUNDLED).encode(TEXT)
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0].log_softmax(-1)
    told = post(server, "/v1/completions", prompt=TEXT, echo=True, logprobs=5, max_tokens=0)
    (choice,) = told["choices"]
    assert choice["text"] == TEXT
    values = choice["logprobs"]["token_logprobs"]
    assert values[0] is None
    wanted = [expected[i, token_id].item() for i, token_id in enumerate(ids[1:])]
    assert values[1:] == pytest.approx(wanted, abs=1e-4)
    for i, top in enumerate(choice["logprobs"]["top_logprobs"][1:]):
        best = sorted(top.values(), reverse=True)[:5]
        assert best == pytest.approx(expected[i].topk(5).values.tolist(), abs=1e-4)


def test_the_sum_over_a_continuation_is_the_echo_s(server: LiveServer) -> None:
    context, continuation = TEXT[:600], TEXT[600:]
    echoed = post(server, "/v1/completions", prompt=TEXT, echo=True, logprobs=0, max_tokens=0)
    logprobs = echoed["choices"][0]["logprobs"]
    scored = post(
        server, "/v1/score", input={"context": context, "continuation": continuation}
    )  # fmt: skip
    (result,) = scored["data"]
    assert result["token_logprobs"] == logprobs["token_logprobs"][-result["num_tokens"] :]
    assert result["tokens"] == logprobs["tokens"][-result["num_tokens"] :]
    assert result["log_likelihood"] == pytest.approx(sum(result["token_logprobs"]))
    again = post(
        server, "/v1/score", input={"context": context, "continuation": continuation}
    )  # fmt: skip
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert again["data"] == scored["data"]


async def test_scores_are_the_same_bits_in_company(server: LiveServer) -> None:
    asked = {"prompt": TEXT, "echo": True, "logprobs": 2, "max_tokens": 4, "seed": 3}
    others = [
        {"prompt": TEXT[i:], "max_tokens": 12, "echo": i % 2 == 0, "logprobs": 1, "seed": i}
        for i in range(1, 16)
    ]
    url = f"{server.url}/v1/completions"
    async with httpx.AsyncClient(timeout=120) as client:
        alone = (await client.post(url, json=asked)).json()
        answers = await asyncio.gather(*(client.post(url, json=body) for body in [*others, asked]))
    assert all(answer.status_code == 200 for answer in answers)
    assert answers[-1].json()["choices"] == alone["choices"]


def test_the_openai_client_scores_a_prompt(server: LiveServer) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        told = client.completions.create(
            model="bundled",
            prompt="Call me Ishmael.",
            echo=True,
            logprobs=2,
            max_tokens=0,
            extra_body={"prompt_logprobs": 1, "truncate_prompt_tokens": 50},
        )
    (choice,) = told.choices
    assert choice.text == "Call me Ishmael."
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs is not None
    assert len(choice.logprobs.token_logprobs) == told.usage.prompt_tokens  # type: ignore[union-attr]
