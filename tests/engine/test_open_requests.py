"""Who is blamed for a death, who runs alone, and for how long. No process needed."""

from __future__ import annotations

from engine.open_requests import TRIAL_TOKENS, OpenRequest, OpenRequests
from engine.request import FinishReason, Request, SamplingParams, TokenOutput
from engine.stream import RequestStream

LONG = 100


def new_requests(count: int, max_tokens: int = LONG) -> OpenRequests:
    requests = OpenRequests()
    requests.add(
        OpenRequest(
            Request(i, (i,), SamplingParams(max_tokens=max_tokens)),
            RequestStream(i, lambda _id: None),
        )
        for i in range(count)
    )
    return requests


def due(requests: OpenRequests) -> list[tuple[int, int]]:
    """The ids that the engine is given, and up to how many tokens each."""
    return [(one.request_id, one.params.max_tokens) for one in requests.take_due()]


def die(requests: OpenRequests, *running: int) -> int | None:
    """The engine does, and another one starts; who is guilty."""
    guilty = requests.blame(running)
    requests.forget_engine()
    return None if guilty is None else guilty.request.request_id


def bring(
    requests: OpenRequests, request_id: int, count: int, reason: FinishReason | None = None
) -> TokenOutput:
    entry = requests.get(request_id)
    assert entry is not None
    return entry.take(TokenOutput(request_id, (7,) * count, finish_reason=reason))


def test_each_is_given_once_to_each_engine() -> None:
    requests = new_requests(2)
    assert due(requests) == [(0, LONG), (1, LONG)]
    assert due(requests) == []
    assert die(requests) is None
    assert due(requests) == [(0, LONG), (1, LONG)]


def test_after_two_deaths_each_of_the_step_runs_alone_for_a_few_tokens() -> None:
    requests = new_requests(3)
    for _ in range(2):
        assert len(due(requests)) == 3
        assert die(requests, 0, 1) is None
    assert due(requests) == [(0, TRIAL_TOKENS)]
    assert due(requests) == []
    brought = bring(requests, 0, TRIAL_TOKENS, FinishReason.LENGTH)
    assert brought.finish_reason is None  # the trial's end is not the reader's
    assert due(requests) == [(1, TRIAL_TOKENS)]
    assert die(requests, 1) == 1
    requests.remove(1)
    assert due(requests) == [(0, LONG), (2, LONG)]


def test_a_death_by_hand_makes_no_suspects() -> None:
    """As long as each brings something in between: what kills would kill at the same token."""
    requests = new_requests(2)
    for _ in range(20):
        assert len(due(requests)) == 2
        for request_id in (0, 1):
            bring(requests, request_id, 1)
        assert die(requests, 0, 1) is None


def test_a_suspect_that_got_further_before_it_died_again_is_none() -> None:
    requests = new_requests(1)
    for _ in range(2):
        due(requests)
        die(requests, 0)
    assert due(requests) == [(0, TRIAL_TOKENS)]
    bring(requests, 0, 3)
    assert die(requests, 0) is None
    assert due(requests) == [(0, LONG)]


def test_suspects_once_more_run_to_their_ends() -> None:
    """Only together they kill: one after the other they do not."""
    requests = new_requests(2)
    for num_trial in range(2):
        for _ in range(2):
            assert len(due(requests)) == 2
            assert die(requests, 0, 1) is None
        for request_id in (0, 1):
            limit = TRIAL_TOKENS if num_trial == 0 else LONG
            assert due(requests) == [(request_id, limit)]
            if num_trial == 0:
                bring(requests, request_id, TRIAL_TOKENS, FinishReason.LENGTH)
            else:
                last = bring(requests, request_id, LONG - TRIAL_TOKENS, FinishReason.LENGTH)
                assert last.finish_reason is FinishReason.LENGTH
                requests.remove(request_id)
    assert len(requests) == 0


def test_a_trial_of_what_is_short_is_all_of_it() -> None:
    requests = new_requests(2, max_tokens=3)
    for _ in range(2):
        due(requests)
        die(requests, 0)
    assert due(requests) == [(0, 3)]
    assert bring(requests, 0, 3, FinishReason.LENGTH).finish_reason is FinishReason.LENGTH
    requests.remove(0)
    assert due(requests) == [(1, 3)]
