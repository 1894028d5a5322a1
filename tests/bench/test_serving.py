"""The serving bench against a fake server: what it sends, what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.client import Address
from bench.serving import ServerUnknown, ServingOptions, lines, measure, plot
from tests.bench.fake_completions import DONE, as_chunks, plain, serving, text_event, usage_event

ANSWER = as_chunks([text_event("a"), text_event("b"), usage_event(2), DONE])
OPTIONS = ServingOptions("", rates=(1e4,), concurrencies=(2,), num_requests=6, prompt_len=3)


async def test_loads_of_both_kinds(tmp_path: Path) -> None:
    async with serving(ANSWER) as (fake, address):
        summaries = await measure(OPTIONS, address, print)
    assert [s.load for s in summaries] == ["10000 requests/s", "2 at once"]
    assert all((s.num_succeeded, s.errors) == (6, {}) for s in summaries)
    assert len(fake.bodies) == 13
    prompts = [tuple(body["prompt"]) for body in fake.bodies]
    assert len(set(prompts)) == 13
    assert fake.bodies[0] == {
        "model": "fake",
        "prompt": fake.bodies[0]["prompt"],
        "max_tokens": 64,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    told = "\n".join(lines(summaries))
    assert "2 at once" in told
    assert "of a core" in told
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in plot(summaries, tmp_path))


async def test_failures_are_told_by_kind() -> None:
    async with serving(plain({}, "503 Service Unavailable")) as (_, address):
        summaries = await measure(OPTIONS, address, print)
    assert "2 at once: 6 status 503" in list(lines(summaries))


async def test_no_server() -> None:
    with pytest.raises(ServerUnknown, match="/v1/models"):
        await measure(OPTIONS, Address("127.0.0.1", 1, ""), print)
