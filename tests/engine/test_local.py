from __future__ import annotations

import pytest

from engine.errors import EngineFailed, InvalidParams, PromptTooLong, RequestFailed
from engine.local import LocalEngine
from engine.request import FinishReason, SamplingParams
from tests.engine.fake_core import FACTORY, Behaviour, expected_ids, fake_config


def test_more_requests_than_slots_come_back_in_order() -> None:
    engine = LocalEngine(fake_config(Behaviour(num_slots=2)), FACTORY)
    items = [((index,), SamplingParams(max_tokens=1 + index % 5)) for index in range(9)]
    for _ in range(2):  # it may be used again
        results = engine.generate(items)
        assert [result.token_ids for result in results] == [
            expected_ids(prompt_ids, params) for prompt_ids, params in items
        ]
    assert {result.finish_reason for result in results} == {FinishReason.LENGTH}
    assert all(len(result.logprobs) == len(result.token_ids) for result in results)
    assert not engine.core.has_work


def test_nothing_asked_is_nothing_done() -> None:
    assert LocalEngine(fake_config(), FACTORY).generate([]) == []


def test_bad_requests_are_named_before_anything_runs() -> None:
    engine = LocalEngine(fake_config(), FACTORY)
    with pytest.raises(PromptTooLong):
        engine.generate([((1,), SamplingParams()), ((1,) * 65, SamplingParams())])
    with pytest.raises(InvalidParams):
        engine.generate([((1,), SamplingParams(max_tokens=-1))])
    assert not engine.core.has_work


def test_a_refusal_is_an_exception() -> None:
    with pytest.raises(EngineFailed) as caught:
        LocalEngine(fake_config(Behaviour(refuse=("a", "b"))), FACTORY)
    assert caught.value.problems == ["a", "b"]


def test_a_core_that_loses_a_request_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine(fake_config(), FACTORY)
    monkeypatch.setattr(engine.core, "submit", lambda _requests: None)
    with pytest.raises(RequestFailed, match="lost 1 requests"):
        engine.generate([((1,), SamplingParams())])
