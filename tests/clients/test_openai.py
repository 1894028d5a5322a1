"""OpenAI's own Python client, against a live server: what it sends is taken, and its errors fit.

Run by ``make test-clients``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.live_server import live_server

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]

KEY = "sk-user-0123456789abcdef"
MODEL = "bundled"
PROMPT = "The old man lit his pipe and"
SEEDED: dict[str, Any] = {"model": MODEL, "prompt": PROMPT, "max_tokens": 12, "seed": 7}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n")
    keys.chmod(0o600)
    with live_server(
        None, "--api-key-file", str(keys), "--served-model-name", MODEL, "--max-choices", "8"
    ) as server:
        yield f"{server.url}/v1"


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        yield client


def test_every_parameter_of_a_completion_is_taken(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        **SEEDED,
        n=2,
        best_of=2,
        echo=True,
        frequency_penalty=0.5,
        presence_penalty=0.5,
        logit_bias={"13": -100},
        logprobs=2,
        stop=["\n"],
        stream=False,
        suffix=None,
        temperature=0.8,
        top_p=0.9,
        user="somebody",
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert choice.text.startswith(PROMPT)
        assert choice.logprobs is not None
        assert choice.logprobs.tokens is not None
        assert "".join(choice.logprobs.tokens).startswith(choice.text)
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.system_fingerprint


def test_a_stream_says_what_the_plain_answer_says(client: openai.OpenAI) -> None:
    plain = client.completions.create(**SEEDED)
    options = {"include_usage": True}
    events = list(client.completions.create(**SEEDED, stream=True, stream_options=options))  # type: ignore[call-overload]
    choices = [choice for event in events for choice in event.choices]
    assert "".join(choice.text for choice in choices) == plain.choices[0].text
    reasons = [choice.finish_reason for choice in choices if choice.finish_reason]
    assert reasons == [plain.choices[0].finish_reason]
    assert plain.usage is not None
    assert events[-1].usage.completion_tokens == plain.usage.completion_tokens


def test_models_are_listed_and_looked_up(client: openai.OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"max_tokens": -1}, openai.BadRequestError, "max_tokens"),
        ({"suffix": "the end"}, openai.BadRequestError, "suffix"),
        ({"n": 9}, openai.BadRequestError, "n"),
        ({"extra_body": {"tpo_p": 1}}, openai.BadRequestError, "tpo_p"),
        ({"model": "another"}, openai.NotFoundError, "model"),
    ],
)
def test_a_refusal_is_the_clients_own_exception(
    client: openai.OpenAI, fields: dict[str, Any], error: type[openai.APIStatusError], param: str
) -> None:
    with pytest.raises(error) as refused:
        client.completions.create(**{**SEEDED, **fields})
    assert refused.value.param == param


def test_a_wrong_key_is_an_authentication_error(url: str) -> None:
    with (
        openai.OpenAI(base_url=url, api_key="sk-wrong", max_retries=0) as wrong,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        wrong.models.list()
    assert refused.value.code == "invalid_api_key"


def test_a_full_queue_is_a_rate_limit_error() -> None:
    """One long choice runs and one waits, so there is no room for a third."""
    with (
        live_server(None, "--slots", "1", "--max-queued-requests", "1") as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        long = {"max_tokens": 900, "n": 2, "extra_body": {"ignore_eos": True}}
        stream = client.completions.create(model=MODEL, prompt=PROMPT, stream=True, **long)  # type: ignore[call-overload]
        with stream:
            next(stream)
            with pytest.raises(openai.RateLimitError) as refused:
                client.completions.create(model=MODEL, prompt=PROMPT)
    assert refused.value.code == "queue_full"
    assert int(refused.value.response.headers["retry-after"]) >= 1
