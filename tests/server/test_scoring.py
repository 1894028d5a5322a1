"""Prompts in answers: echo, log probabilities of a prompt, truncation, and one law for streams."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from engine.errors import EngineError
from engine.request import RequestTimes, SamplingParams, TokenOutput
from server.deadline import Deadline
from server.generation import Generation
from tests.server.conftest import client_of, make_app
from tests.server.fake_engine import EOS_ID, INFO, FakeEngine
from tests.server.test_completions import complete, events, fold

LAW: list[dict[str, Any]] = [
    {"echo": True},
    {"echo": True, "max_tokens": 0},
    {"echo": True, "max_tokens": 0, "logprobs": 2},
    {"echo": True, "logprobs": 3, "stop": [" w", "a", "é"], "max_tokens": 40},
    {"prompt": ["abcdefg", "é🙂x"], "n": 2, "echo": True, "logprobs": 0, "prompt_logprobs": 4},
    {"prompt": "abcdefg", "prompt_logprobs": 2},
    {"prompt": [[1, 2, 3], [5]], "prompt_logprobs": 0, "return_token_ids": True, "echo": True},
    {"prompt": "abcdefgh", "truncate_prompt_tokens": 3, "echo": True, "logprobs": 1},
]


@pytest.mark.parametrize("fields", LAW)
@pytest.mark.parametrize("tokens_per_output", [1, 3, 100])
async def test_the_plain_answer_is_the_folded_stream(
    fields: dict[str, Any], tokens_per_output: int
) -> None:
    engine = FakeEngine(tokens_per_output=tokens_per_output)
    async with client_of(make_app(engine)) as client:
        plain = await complete(client, **fields)
        streamed = await events(client, **fields, stream_options={"include_usage": True})
    assert fold(streamed) == plain["choices"]
    assert streamed[-1]["usage"] == plain["usage"]
    assert all(choice["finish_reason"] for choice in plain["choices"])


async def test_echo_puts_the_prompt_before_the_text(client: httpx.AsyncClient) -> None:
    cases = (("abc", "abc"), ("é🙂", "é🙂"), ([97, 98], "ab"), ([list("é".encode())], "é"))
    for prompt, text in cases:
        plain = (await complete(client, prompt=prompt))["choices"][0]["text"]
        echoed = (await complete(client, prompt=prompt, echo=True))["choices"][0]["text"]
        assert echoed == text + plain


async def test_a_character_that_the_prompt_begins_is_ended_by_the_text() -> None:
    """Half an é in the prompt, the other half generated: one character, not two of U+FFFD."""
    first, second = "é".encode()
    engine = FakeEngine(script=lambda _prompt, _params: [second, ord("x")])
    async with client_of(make_app(engine)) as client:
        told = await complete(client, prompt=[97, first], echo=True, logprobs=0)
    assert told["choices"][0]["text"] == "aéx"
    assert told["choices"][0]["logprobs"]["text_offset"] == [0, 1, 1, 2]


async def test_scoring_a_prompt_generates_nothing(client: httpx.AsyncClient) -> None:
    """In the shape of OpenAI, as evaluation harnesses read it."""
    told = await complete(client, prompt="abé", echo=True, logprobs=2, max_tokens=0)
    (choice,) = told["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("abé", "length")
    assert told["usage"]["completion_tokens"] == 0
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["a", "b", r"bytes:\xc3", r"bytes:\xa9"]
    assert logprobs["token_logprobs"] == [None, -1.598, -1.695, -1.669]
    assert logprobs["text_offset"] == [0, 1, 2, 2]
    assert logprobs["top_logprobs"][0] is None
    # 1 is impossible in the fake engine: null, for minus infinity is no JSON
    assert logprobs["top_logprobs"][1] == {"\u0000": 0.0, "\u0001": None, "b": -1.598}


async def test_scores_of_the_prompt_and_of_the_text_stand_in_one_list(
    client: httpx.AsyncClient,
) -> None:
    fields = {"prompt": "ab", "max_tokens": 3, "logprobs": 0}
    plain = (await complete(client, **fields))["choices"][0]["logprobs"]
    echoed = (await complete(client, **fields, echo=True))["choices"][0]["logprobs"]
    assert echoed["tokens"] == ["a", "b", *plain["tokens"]]
    assert echoed["token_logprobs"] == [None, -1.598, *plain["token_logprobs"]]
    assert echoed["text_offset"] == [0, 1, *(offset + 2 for offset in plain["text_offset"])]


async def test_each_kind_of_log_probabilities_has_its_own_number(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    told = await complete(client, prompt="abc", echo=True, logprobs=1, prompt_logprobs=3)
    choice = told["choices"][0]
    assert engine.submitted[0][1].num_prompt_logprobs == 3
    assert len(choice["logprobs"]["top_logprobs"][1]) == 2  # one and the token itself
    assert choice["prompt_logprobs"][0] is None
    assert choice["prompt_logprobs"][1] == {
        "98": {"logprob": -1.598, "decoded_token": "b"},
        "0": {"logprob": 0.0, "decoded_token": "\u0000"},
        "1": {"logprob": None, "decoded_token": "\u0001"},
        "2": {"logprob": -1.0, "decoded_token": "\u0002"},
    }
    assert len(choice["prompt_logprobs"]) == 3


async def test_only_what_is_shown_is_computed(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    told = await complete(client, prompt="abc", logprobs=5)
    assert engine.submitted[0][1].num_prompt_logprobs is None
    assert "prompt_logprobs" not in told["choices"][0]
    await complete(client, prompt="abc", echo=True)
    assert engine.submitted[1][1].num_prompt_logprobs is None
    await complete(client, prompt="abc", prompt_logprobs=0)
    assert engine.submitted[2][1].num_prompt_logprobs == 0


async def test_stop_strings_do_not_look_at_the_prompt() -> None:
    engine = FakeEngine(script=lambda _prompt, _params: list(b"xyzEND"))
    async with client_of(make_app(engine)) as client:
        told = await complete(client, prompt="aENDb", stop="END", echo=True)
        across = await complete(client, prompt="wx", stop="xx", echo=True)
    assert told["choices"][0]["text"] == "aENDbxyz"
    assert across["choices"][0]["text"] == "wxxyzEND"


async def test_the_end_of_a_prompt_is_kept_and_what_was_cut_is_counted(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    told = await complete(client, prompt=["abcdef", "xy"], truncate_prompt_tokens=3)
    assert [prompt for prompt, _ in engine.submitted] == [tuple(b"def"), tuple(b"xy")]
    assert told["usage"]["prompt_tokens"] == 5
    assert told["usage"]["prompt_tokens_details"] == {"cached_tokens": 4, "truncated_tokens": 3}
    plain = await complete(client)
    assert plain["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}


async def test_minus_one_keeps_what_the_context_has_room_for(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    text = "".join(chr(97 + i % 26) for i in range(5_000))
    await complete(client, prompt=text, truncate_prompt_tokens=-1)
    assert engine.submitted[0][0] == tuple(text[-INFO.context_len :].encode())
    await complete(client, prompt=text, truncate_prompt_tokens=-1, max_tokens=0, echo=True)
    assert engine.submitted[1][0] == tuple(text[-INFO.context_len - 1 :].encode())


async def test_an_empty_prompt_is_echoed_as_what_it_stands_for(client: httpx.AsyncClient) -> None:
    told = await complete(client, prompt="", echo=True, max_tokens=0, logprobs=0)
    logprobs = told["choices"][0]["logprobs"]
    assert (logprobs["tokens"], logprobs["token_logprobs"]) == (["<|endoftext|>"], [None])


async def test_scored_tokens_are_counted(client: httpx.AsyncClient) -> None:
    await complete(client, prompt="abcd", echo=True, logprobs=0)
    metrics = (await client.get("/metrics")).text
    assert 'gpt2_scored_tokens_total{model_name="tiny"} 3.0' in metrics


async def test_ids_without_a_vocabulary_are_scored_too() -> None:
    async with client_of(make_app(FakeEngine(), has_text=False)) as client:
        told = await complete(client, prompt=[5, EOS_ID], echo=True, logprobs=0, max_tokens=0)
    (choice,) = told["choices"]
    assert choice["logprobs"]["tokens"] == ["token_id:5", f"token_id:{EOS_ID}"]
    assert (choice["text"], choice["token_ids"]) == ("", [])


async def test_scores_that_nobody_reads_are_bounded_like_tokens() -> None:
    """One step brings 63 scores with 21 numbers each; a reader that may leave 100 loses them."""
    engine = FakeEngine(tokens_per_output=100)
    stream = engine.submit_all([([1] * 64, SamplingParams(max_tokens=0, num_prompt_logprobs=20))])
    kept: list[TokenOutput] = []
    reader = _Keeper(kept)
    generation = Generation([reader], stream, 100, Deadline.after(None, 60))
    assert await generation.next_deltas() is None
    assert len(kept) == 1
    assert reader.was_given_up


class _Keeper:
    """Keeps what comes; never has anything to show."""

    is_ended = False
    times: RequestTimes | None = None
    outcome: str | None = None
    was_given_up = False

    def __init__(self, kept: list[TokenOutput]) -> None:
        self._kept = kept

    def take(self) -> None:
        return

    def feed(self, output: TokenOutput) -> None:
        self._kept.append(output)

    def fail(self, error: EngineError) -> None:
        raise error

    def give_up(self) -> None:
        self.was_given_up = True
