from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from engine.admission import Throughput, check_queue, check_request, check_room
from engine.errors import InvalidParams, PromptTooLong, QueueFull, RequestRejected
from engine.messages import EngineStats
from engine.request import Request, SamplingParams
from tests.engine.fake_core import Behaviour, fake_config, fake_info

INFO = fake_info(Behaviour(context_len=64))


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("max_tokens", -1, "max_tokens"),
        ("max_tokens", 1.5, "max_tokens"),
        ("max_tokens", 2**64, None),
        ("min_tokens", -1, "min_tokens"),
        ("temperature", math.nan, "temperature"),
        ("temperature", math.inf, "temperature"),
        ("temperature", -0.1, "temperature"),
        ("temperature", "hot", "temperature"),
        ("top_k", -1, "top_k"),
        ("top_p", 0.0, "top_p"),
        ("top_p", 1.1, "top_p"),
        ("min_p", -0.1, "min_p"),
        ("min_p", math.nan, "min_p"),
        ("seed", -1, "seed"),
        ("seed", 2**53, "seed"),
        ("choice_index", -1, "n"),
        ("repetition_penalty", 0.0, "repetition_penalty"),
        ("presence_penalty", math.inf, "presence_penalty"),
        ("frequency_penalty", math.nan, "frequency_penalty"),
        ("num_logprobs", 21, "logprobs"),
        ("num_logprobs", -1, "logprobs"),
        ("num_prompt_logprobs", 21, "prompt_logprobs"),
        ("num_prompt_logprobs", -1, "prompt_logprobs"),
        ("scored_from", 0, "scored_from"),
        ("stop_token_ids", (100,), "stop_token_ids"),
        ("stop_token_ids", ("x",), "stop_token_ids"),
        ("logit_bias", ((-1, 0.0),), "logit_bias"),
        ("logit_bias", ((1, math.nan),), "logit_bias"),
    ],
)
def test_a_bad_value_is_named(field: str, value: Any, param: str | None) -> None:
    params = msgspec.structs.replace(SamplingParams(), **{field: value})
    with pytest.raises(InvalidParams) as caught:
        check_request(INFO, 0, (1,), params)
    assert caught.value.param == param
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "prompt_ids",
    [(100,), (-1,), (1, 2**70), (True,), (1.0,), ("a",), (None,)],
    ids=str,
)
def test_a_prompt_has_ids_of_the_vocabulary(prompt_ids: Any) -> None:
    with pytest.raises(InvalidParams, match="prompt must have token ids from 0 to 99"):
        check_request(INFO, 0, prompt_ids, SamplingParams())


def test_a_prompt_has_a_length() -> None:
    with pytest.raises(InvalidParams, match="at least 1 token"):
        check_request(INFO, 0, (), SamplingParams())
    with pytest.raises(PromptTooLong, match="at most 64 tokens; it has 65"):
        check_request(INFO, 0, [1] * 65, SamplingParams())


@pytest.mark.parametrize(("prompt_len", "room"), [(64, 1), (63, 2), (1, 64)])
def test_max_tokens_is_clipped_to_the_context(prompt_len: int, room: int) -> None:
    """The last token that is drawn needs no position of its own."""
    request = check_request(INFO, 3, [1] * prompt_len, SamplingParams(max_tokens=10**9), 4)
    assert request == Request(3, (1,) * prompt_len, SamplingParams(max_tokens=room), priority=4)
    request = check_request(INFO, 3, [1] * prompt_len, SamplingParams(max_tokens=room))
    assert request.params.max_tokens == room


def requests(count: int, prompt_len: int = 1, max_tokens: int = 1) -> list[Request]:
    params = SamplingParams(max_tokens=max_tokens)
    return [Request(index, (1,) * prompt_len, params) for index in range(count)]


def room(num_open: int, new: list[Request], *, tokens: int = 10**6) -> None:
    """Four slots, and room for three that wait."""
    config = fake_config(max_queued_requests=3, max_queued_tokens=tokens)
    check_room(config, 4, requests(num_open), new, Throughput())


def test_requests_that_wait_are_bounded() -> None:
    room(0, requests(7))
    room(6, requests(1))
    with pytest.raises(QueueFull, match="at most 3 requests may wait; there would be 4"):
        room(7, requests(1))
    with pytest.raises(QueueFull):
        room(1, requests(7))


def test_a_full_queue_is_known_without_a_request() -> None:
    config = fake_config(max_queued_requests=3)
    check_queue(config, 4, 6, requests(6), Throughput())
    with pytest.raises(QueueFull, match="at most 3 requests may wait, and as many do") as caught:
        check_queue(config, 4, 7, requests(7), Throughput())
    assert caught.value.retry_after_s == 1.0


def test_more_than_ever_fits_is_the_requests_fault() -> None:
    """With 429 a client would try again for ever."""
    with pytest.raises(RequestRejected, match="at most 7 sequences at once") as caught:
        room(0, requests(8))
    assert caught.value.param == "prompt"


def test_tokens_that_wait_are_bounded() -> None:
    room(5, requests(1, prompt_len=5, max_tokens=3), tokens=10)  # and 2 of the one that waits
    with pytest.raises(QueueFull, match="at most 10 tokens may wait; there would be 11"):
        room(5, requests(1, prompt_len=5, max_tokens=4), tokens=10)


def test_a_large_request_comes_in_when_nothing_waits() -> None:
    room(4, requests(1, prompt_len=50), tokens=10)
    room(0, requests(7, prompt_len=50), tokens=10)
    room(3, requests(1, prompt_len=50), tokens=10)


def test_retry_after_follows_the_throughput() -> None:
    throughput = Throughput()
    assert throughput.retry_after_s(100, 0) == 1.0
    for _ in range(1000):  # 10 requests and 200 tokens a second
        throughput.observe(EngineStats(step_s=0.1, num_step_tokens=20), num_finished=1)
    assert throughput.retry_after_s(50, 0) == pytest.approx(5.0)
    assert throughput.retry_after_s(1, 4000) == pytest.approx(20.0)
    assert throughput.retry_after_s(1, 0) == 1.0
    assert throughput.retry_after_s(10**6, 0) == 60.0


@pytest.mark.parametrize(
    ("num_open", "new", "retry_after_s"),
    [(7, 1, 12.0), (5, 3, 4.0), (4, 4, 1.0)],
    ids=["three wait", "one waits", "none waits"],
)
def test_who_is_refused_may_come_when_those_before_have_gone(
    num_open: int, new: int, retry_after_s: float
) -> None:
    """Four slots, three places; 5 tokens a second, 20 tokens for each that waits."""
    throughput = Throughput()
    for _ in range(1000):
        throughput.observe(EngineStats(step_s=0.2, num_step_tokens=1), num_finished=1)
    config = fake_config(max_queued_requests=3)
    asked = requests(num_open, prompt_len=5, max_tokens=15)
    with pytest.raises(QueueFull) as caught:
        check_room(config, 4, asked, requests(new), throughput)
    assert caught.value.retry_after_s == pytest.approx(retry_after_s)
