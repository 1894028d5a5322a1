"""The main job, over HTTP, against a real server process with a real engine process."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.support.live_server import COMMAND, LiveServer, live_server

BUNDLED = Path(__file__).resolve().parents[2] / "weights" / "bundled"
PROMPT = "It was a dark night, and the old man said"


@pytest.fixture(scope="module", params=["float32", "bfloat16", "int8"])
def server(request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    """The bundled checkpoint."""
    with live_server(None, "--dtype", request.param, "--slots", "32") as live:
        yield live


@pytest.fixture(scope="module")
def one_server() -> Iterator[LiveServer]:
    """The bundled checkpoint, as ``make serve`` starts it."""
    with live_server() as live:
        yield live


def complete(server: LiveServer, **body: Any) -> dict[str, Any]:
    response = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def gauge(server: LiveServer, name: str) -> float:
    """A metric's value, summed over its labels."""
    text = httpx.get(f"{server.url}/metrics", timeout=60).text
    values = [line.split()[-1] for line in text.splitlines() if line.startswith(f"gpt2_{name}{{")]
    return sum(map(float, values))


def until(condition: Any, limit_s: float = 30) -> None:
    """Ask again and again; what is asked about lives in another process."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_trained_model_sorts_every_input(shared_data: Path) -> None:
    """gpt-nano-sort: six digits of {0, 1, 2} in, the same digits sorted out, 729 of 729."""
    inputs = [list(digits) for digits in itertools.product(range(3), repeat=6)]
    got: list[list[int]] = []
    with live_server(shared_data / "trained" / "gpt-nano-sort") as server:
        for start in range(0, len(inputs), 100):
            answer = complete(
                server,
                prompt=inputs[start : start + 100],
                max_tokens=6,
                temperature=0,
                return_token_ids=True,
            )
            got += [choice["token_ids"] for choice in answer["choices"]]
        refused = httpx.post(f"{server.url}/v1/completions", json={"prompt": "text"})
    assert sum(out == sorted(digits) for out, digits in zip(got, inputs, strict=True)) == 729
    assert refused.status_code == 400
    assert "vocabulary" in refused.json()["error"]["message"]


def test_the_openai_client_completes_and_streams(one_server: LiveServer) -> None:
    with openai.OpenAI(base_url=f"{one_server.url}/v1", api_key="none") as client:
        model = client.models.list().data[0].id
        plain = client.completions.create(model=model, prompt=PROMPT, max_tokens=24, seed=1)
        events = list(
            client.completions.create(
                model=model, prompt=PROMPT, max_tokens=24, seed=1, stream=True
            )
        )
    assert len(plain.choices[0].text) > 20
    assert "".join(event.choices[0].text for event in events) == plain.choices[0].text
    assert [e.choices[0].finish_reason for e in events if e.choices[0].finish_reason] == ["length"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_same_bits_alone_in_company_streamed_plain_cached_or_not(
    server: LiveServer, temperature: float
) -> None:
    """Tokens and log probabilities of one seeded request, while 31 others run."""
    prompt = f"At temperature {temperature} she went on, slowly, towards the house; {PROMPT}"
    asked = {
        "prompt": prompt,
        "max_tokens": 20,
        "temperature": temperature,
        "seed": 7,
        "logprobs": 2,
        "return_token_ids": True,
    }

    def gist(choice: dict[str, Any]) -> tuple[Any, ...]:
        return choice["text"], choice["token_ids"], choice["logprobs"]

    alone = complete(server, **asked)
    cached = complete(server, **asked)
    assert alone["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert cached["usage"]["prompt_tokens_details"]["cached_tokens"] > 15
    assert gist(cached["choices"][0]) == gist(alone["choices"][0])

    async def in_company() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            others = [
                client.post(
                    "/v1/completions",
                    json={"prompt": f"{i} {PROMPT}" * (1 + i % 3), "max_tokens": 30, "seed": i},
                )
                for i in range(30)
            ]
            plain = client.post("/v1/completions", json=asked)
            streamed = client.post("/v1/completions", json={**asked, "stream": True})
            answers = await asyncio.gather(*others[:15], plain, streamed, *others[15:])
        assert all(answer.status_code == 200 for answer in answers)
        lines = answers[16].text.splitlines()
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        assert data[-1] == "[DONE]"
        return answers[15].json(), [json.loads(item) for item in data[:-1]]

    plain, events = asyncio.run(in_company())
    assert gist(plain["choices"][0]) == gist(alone["choices"][0])
    choices = [event["choices"][0] for event in events]
    expected = alone["choices"][0]
    assert "".join(choice["text"] for choice in choices) == expected["text"]
    assert [i for c in choices for i in c["token_ids"]] == expected["token_ids"]
    logprobs = [p for c in choices if c["logprobs"] for p in c["logprobs"]["token_logprobs"]]
    assert logprobs == expected["logprobs"]["token_logprobs"]
    assert plain["system_fingerprint"] == alone["system_fingerprint"]


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(one_server: LiveServer, is_stream: bool) -> None:
    body = {"prompt": "long", "max_tokens": 1000, "n": 4, "ignore_eos": True, "stream": is_stream}
    url = f"{one_server.url}/v1/completions"
    with httpx.Client(timeout=60) as client:
        if is_stream:
            with client.stream("POST", url, json=body) as response:
                lines = response.iter_lines()  # kept: letting go of it would hang up
                assert next(lines).startswith("data: ")
                until(lambda: gauge(one_server, "slots_in_use") == 4)
        else:
            request = threading.Thread(target=_abandon, args=(url, body, one_server))
            request.start()
            request.join()
    left_s = time.monotonic()
    until(lambda: gauge(one_server, "slots_in_use") == 0)
    assert time.monotonic() - left_s < 5  # 1,000 tokens of four choices take far longer
    assert gauge(one_server, "requests_running") == 0


def _abandon(url: str, body: dict[str, Any], server: LiveServer) -> None:
    """Post, wait until it runs, and hang up without having read a byte."""

    async def main() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            task = asyncio.create_task(client.post(url, json=body))
            while await asyncio.to_thread(gauge, server, "slots_in_use") < 4:
                assert not task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_eight_streams_survive_the_death_of_the_engine(one_server: LiveServer) -> None:
    """SIGKILL in the middle: every stream ends with the text it would have had."""
    bodies = [
        {"prompt": f"{i}. {PROMPT}", "max_tokens": 120, "seed": i, "ignore_eos": True}
        for i in range(8)
    ]
    expected = [complete(one_server, **body)["choices"][0]["text"] for body in bodies]
    victim = one_server.engine
    seen = [0] * 8

    async def stream(client: httpx.AsyncClient, i: int) -> str:
        text, done = "", False
        body = {**bodies[i], "stream": True}
        async with client.stream("POST", "/v1/completions", json=body) as response:
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    done = True
                elif line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    text += event["choices"][0]["text"]
                    seen[i] += 1
                if min(seen) >= 3 and victim.is_running():
                    victim.kill()
        assert done
        return text

    async def all_streams() -> list[str]:
        async with httpx.AsyncClient(base_url=one_server.url, timeout=120) as client:
            return await asyncio.gather(*(stream(client, i) for i in range(8)))

    assert asyncio.run(all_streams()) == expected
    assert one_server.engine.pid != victim.pid
    assert not psutil.pid_exists(victim.pid)
    assert gauge(one_server, "engine_restarts_total") == 1


def test_a_late_request_gets_its_first_token_while_others_run(one_server: LiveServer) -> None:
    async def main() -> None:
        finished = asyncio.Event()
        async with httpx.AsyncClient(base_url=one_server.url, timeout=120) as client:
            body = {"prompt": PROMPT, "max_tokens": 400, "n": 8, "ignore_eos": True}
            running = asyncio.create_task(client.post("/v1/completions", json=body))
            running.add_done_callback(lambda _task: finished.set())
            while await asyncio.to_thread(gauge, one_server, "slots_in_use") < 8:
                assert not finished.is_set()
            late = {"prompt": "a late request", "max_tokens": 3, "stream": True}
            async with client.stream("POST", "/v1/completions", json=late) as response:
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        break
            assert not finished.is_set()
            assert (await running).status_code == 200

    asyncio.run(main())


def test_a_directory_written_by_transformers_serves_text(tmp_path: Path, shared_data: Path) -> None:
    """Model and fast tokenizer as the current transformers writes them, converted and as is."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    source, converted = tmp_path / "hf", tmp_path / "ours"
    torch.manual_seed(0)
    vocab = shared_data / "vocab" / "gpt2"
    tokenizer = GPT2TokenizerFast(str(vocab / "encoder.json"), str(vocab / "vocab.bpe"))
    tokenizer.save_pretrained(source)
    peer = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=64, n_positions=128)).eval()
    peer.save_pretrained(source)
    expected_ids = tokenizer("Hello, world")["input_ids"]
    with torch.inference_mode():
        out = peer.generate(
            torch.tensor([expected_ids]),
            attention_mask=torch.ones(1, len(expected_ids), dtype=torch.long),
            max_new_tokens=8,
            do_sample=False,
            pad_token_id=50256,
        )
    expected = tokenizer.decode(out[0, len(expected_ids) :])
    convert = [str(COMMAND), "convert", str(source), str(converted)]
    subprocess.run(convert, check=True, capture_output=True)
    for checkpoint in (source, converted):
        with live_server(checkpoint, "--dtype", "float32", "--slots", "2") as server:
            answer = complete(server, prompt="Hello, world", max_tokens=8, temperature=0)
            assert answer["choices"][0]["text"] == expected
            assert answer["usage"]["prompt_tokens"] == len(expected_ids)
