"""response_format, regex and choice: what reaches the engine, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import msgspec
import pytest

from engine.request import SamplingParams
from model.grammar import choice_grammar, json_grammar, regex_grammar
from tests.server.conftest import client_of, make_app
from tests.server.fake_engine import EOS_ID, INFO, FakeEngine

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
WANTED = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
ASKED: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"response_format": {"type": "text"}}, ""),
    ({"response_format": {"type": "json_object"}}, json_grammar({"type": "object"})),
    ({"response_format": WANTED}, json_grammar(SCHEMA)),
    ({"regex": "a+"}, regex_grammar("a+")),
    ({"choice": ["yes", "no."]}, choice_grammar(["yes", "no."])),
]


@pytest.mark.parametrize(("fields", "grammar"), ASKED)
async def test_every_choice_gets_the_grammar(
    client: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any], grammar: str
) -> None:
    answer = await client.post("/v1/completions", json={"prompt": ["a", "b"], "n": 2, **fields})
    assert answer.status_code == 200, answer.text
    assert [params.grammar for _, params in engine.submitted] == [grammar] * 4


def _yes(_ids: Sequence[int], _params: SamplingParams) -> list[int]:
    return [ord("y"), ord("e"), ord("s"), EOS_ID]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ended", [3, 4])
async def test_the_last_token_is_text_unless_it_is_an_end(stream: bool, ended: int) -> None:
    """A grammar that is complete ends a choice with a token of its text."""
    engine = FakeEngine(script=lambda ids, params: _yes(ids, params)[:ended])
    body = {"prompt": "a", "choice": ["yes"], "stream": stream, "max_tokens": 9}
    async with client_of(make_app(engine)) as client:
        answer = await client.post("/v1/completions", json=body)
    texts = (
        [part.split('"text":"')[1].split('"')[0] for part in answer.text.split("\n\n")[:-2]]
        if stream
        else [answer.json()["choices"][0]["text"]]
    )
    assert "".join(texts) == "yes"


@pytest.mark.parametrize("fields", [fields for fields, grammar in ASKED if grammar])
async def test_refused_where_it_cannot_be_followed(fields: dict[str, Any]) -> None:
    (param,) = fields
    on_gpu = FakeEngine(info=msgspec.structs.replace(INFO, device="cuda"))
    for app in (make_app(FakeEngine(), has_text=False), make_app(on_gpu)):
        async with client_of(app) as client:
            answer = await client.post("/v1/completions", json={"prompt": [1], **fields})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param


async def test_a_refusal_says_what_is_wrong_with_it(client: httpx.AsyncClient) -> None:
    wanted = {**WANTED, "json_schema": {"name": "a", "schema": {"uniqueItems": True}}}
    for fields, told in (
        ({"regex": "(?=a)b"}, "regex cannot be followed: "),
        ({"response_format": wanted}, "response_format cannot be followed: Unimplemented keys"),
        ({"regex": "a", "choice": ["a"]}, "regex cannot be together with choice"),
        ({"choice": ["a"], "ignore_eos": True}, "ignore_eos must be false with choice"),
    ):
        answer = await client.post("/v1/completions", json={"prompt": "a", **fields})
        assert answer.status_code == 400
        assert told in answer.json()["error"]["message"]
