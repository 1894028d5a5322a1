from __future__ import annotations

import json

import pytest

from engine.errors import EngineError, EngineUnavailable, QueueFull, RequestRejected
from server.errors import (
    MAX_MESSAGE_LEN,
    MAX_VALUE_LEN,
    VERDICTS,
    ApiError,
    error_body,
    error_response,
    from_engine,
    short,
)
from server.metrics import REJECTIONS


def subclasses(root: type[EngineError]) -> list[type[EngineError]]:
    direct = root.__subclasses__()
    return direct + [below for child in direct for below in subclasses(child)]


@pytest.mark.parametrize("kind", subclasses(EngineError))
def test_every_engine_error_has_a_status_of_its_trunk(kind: type[EngineError]) -> None:
    allowed = {400} if issubclass(kind, RequestRejected) else {429, 503, 504}
    assert VERDICTS[kind].status in allowed
    if issubclass(kind, EngineUnavailable):
        assert VERDICTS[kind].status != 400


def test_the_two_trunks_are_all_there_is() -> None:
    trunks = set(EngineError.__subclasses__())
    assert trunks == {RequestRejected, EngineUnavailable}


def test_a_full_queue_says_when_to_try_again() -> None:
    answer = error_response(from_engine(QueueFull("at most 3 wait", retry_after_s=1.2)))
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "2"


@pytest.mark.parametrize(
    "value", ["x" * 10**6, 10**4000, [[1] * 10**5] * 9, {"a": "\ud800" * 99}, b"\xff" * 999, None]
)
def test_a_value_in_a_message_is_short_and_plain(value: object) -> None:
    assert len(short(value)) <= MAX_VALUE_LEN
    assert short(value).isascii()


def test_what_will_not_be_shown_is_not_written_out_first() -> None:
    """A message about a list of a million entries costs as much as one about ten."""
    num_written = 0

    class Counted:
        def __repr__(self) -> str:
            nonlocal num_written
            num_written += 1
            return "x"

    short([Counted() for _ in range(1_000)])
    assert 0 < num_written < 20


def test_a_body_is_bounded_and_encodes_whatever_it_is_told() -> None:
    error = ApiError(400, "\ud800" * 10_000, param="\udfff" * 10_000)
    told = json.loads(error_body(error))["error"]
    assert len(told["message"]) <= MAX_MESSAGE_LEN
    assert len(told["param"]) <= MAX_VALUE_LEN
    assert set(told) == {"message", "type", "param", "code"}


def test_every_reason_to_turn_away_is_there_from_the_start() -> None:
    assert {verdict.code for verdict in VERDICTS.values()} <= set(REJECTIONS)
