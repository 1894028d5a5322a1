from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.server.conftest import client_of, make_app
from tests.server.fake_engine import FakeEngine


async def test_tokens_have_ids_names_and_byte_offsets(client: httpx.AsyncClient) -> None:
    answer = await client.post("/tokenize", json={"prompt": "aé"})
    assert answer.json() == {
        "tokens": [97, 195, 169],
        "pieces": ["a", "bytes:\\xc3", "bytes:\\xa9"],
        "offsets": [[0, 1], [1, 2], [2, 3]],
        "count": 3,
        "max_model_len": 64,
    }


async def test_ids_become_text_again(client: httpx.AsyncClient) -> None:
    answer = await client.post("/detokenize", json={"tokens": [97, 294, 295, 0xF0]})
    assert answer.json() == {"prompt": "aé🙂�"}


async def test_a_long_text_is_encoded_too(client: httpx.AsyncClient) -> None:
    answer = await client.post("/tokenize", json={"prompt": "ab" * 50_000})
    assert answer.json()["count"] == 100_000


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/tokenize", {"prompt": "\0"}, "prompt"),
        ("/tokenize", {"text": "a"}, "text"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens[1]"),
        ("/detokenize", {"tokens": [1, True]}, "tokens[1]"),
        ("/detokenize", {"tokens": [1, 297]}, "tokens"),
        ("/detokenize", {"tokens": [300]}, "tokens"),
    ],
)
async def test_bad_input_is_400(
    client: httpx.AsyncClient, route: str, body: dict[str, Any], param: str
) -> None:
    answer = await client.post(route, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("num_bytes", [20, 21])
async def test_the_text_is_bounded_both_ways(num_bytes: int) -> None:
    """An answer of /tokenize is 35 times its question; one id may stand for many bytes."""
    async with client_of(make_app(FakeEngine(), max_tokenize_bytes=20)) as client:
        asked = {"prompt": "é" * 10 + "a" * (num_bytes - 20)}
        told = [
            await client.post("/tokenize", json=asked),
            await client.post(
                "/detokenize", json={"tokens": [*[295] * 5, *[97] * (num_bytes - 20)]}
            ),
        ]
    if num_bytes == 20:
        assert [answer.status_code for answer in told] == [200, 200]
        return
    for answer, param in zip(told, ("prompt", "tokens"), strict=True):
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param
        assert "at most 20 bytes, got 21" in answer.json()["error"]["message"]


async def test_another_model_is_404(client: httpx.AsyncClient) -> None:
    for route, field in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
        answer = await client.post(route, json={**field, "model": "other"})
        assert answer.status_code == 404


async def test_without_a_vocabulary_there_is_no_text() -> None:
    async with client_of(make_app(FakeEngine(), has_text=False)) as client:
        for route, field in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
            answer = await client.post(route, json=field)
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] == "no_vocabulary"
