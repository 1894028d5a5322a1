"""The pipelined scheduler without a device: launches by hand, results made up."""

from __future__ import annotations

from typing import Any

import pytest

from engine.device.launch import Launch, PrefillLaunch, RowResult
from engine.device.scheduler import PipelinedScheduler
from engine.request import FinishReason, Request, SamplingParams, TokenOutput
from engine.slot_pool import SlotPool
from engine.step import Drawn

CONTEXT_LEN = 64


def make(num_slots: int = 3, *, max_rows: int = 8, max_spans: int = 4) -> PipelinedScheduler:
    return PipelinedScheduler(
        SlotPool(num_slots),
        CONTEXT_LEN,
        50,
        (5,),
        max_chunk_len=32,
        max_spans=max_spans,
        max_rows=max_rows,
    )


def request(request_id: int, prompt_len: int = 3, max_tokens: int = 4, **options: Any) -> Request:
    prompt = tuple(request_id + i for i in range(prompt_len))
    return Request(request_id, prompt, SamplingParams(max_tokens=max_tokens, **options))


def prefill(scheduler: PipelinedScheduler) -> PrefillLaunch:
    launch = scheduler.prefill()
    assert launch is not None
    return launch


def decode(scheduler: PipelinedScheduler) -> Launch:
    launch = scheduler.decode()
    assert launch is not None
    return launch


def collect(
    scheduler: PipelinedScheduler, launch: Launch, *rows: tuple[int, bool] | None
) -> list[TokenOutput]:
    """``rows``: a token and whether the device goes on, or None for neither."""
    results = [RowResult(Drawn(row[0]), row[1]) if row else RowResult() for row in rows]
    found = scheduler.collect(launch, results)
    scheduler.check_integrity()
    return found


def test_decode_steps_are_launched_before_any_token_is_known() -> None:
    scheduler = make()
    scheduler.add([request(0, max_tokens=4)])
    first = prefill(scheduler)
    others = [decode(scheduler) for _ in range(3)]
    assert scheduler.decode() is None  # four tokens are on their way
    outputs = [
        output
        for launch, token, goes_on in zip(
            (first, *others), range(10, 14), (1, 1, 1, 0), strict=True
        )
        for output in collect(scheduler, launch, (token, bool(goes_on)))
    ]
    assert [output.token_ids for output in outputs] == [(10,), (11,), (12,), (13,)]
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert not scheduler.has_work
    assert scheduler.pool.num_held == 0


def test_what_was_launched_for_a_sequence_that_ended_is_dropped() -> None:
    scheduler = make()
    scheduler.add([request(0, max_tokens=9)])
    first = prefill(scheduler)
    second, third = decode(scheduler), decode(scheduler)
    collect(scheduler, first, (7, True))
    (output,) = collect(scheduler, second, (5, False))
    assert output.finish_reason is FinishReason.STOP
    assert scheduler.has_work
    assert scheduler.pool.num_held == 1  # a step of it is in flight
    assert scheduler.decode() is None
    assert collect(scheduler, third, None) == []
    assert not scheduler.has_work
    assert scheduler.pool.num_held == 0


def test_a_core_with_nothing_but_flights_has_work() -> None:
    scheduler = make()
    scheduler.add([request(0)])
    launch = prefill(scheduler)
    scheduler.abort([0])
    assert scheduler.num_running == 0
    assert scheduler.has_work
    assert collect(scheduler, launch, (7, True)) == []
    assert not scheduler.has_work


def test_a_new_request_of_an_old_id_gets_nothing_of_the_old_ones() -> None:
    scheduler = make()
    scheduler.add([request(0)])
    launch = prefill(scheduler)
    scheduler.abort([0])
    scheduler.add([request(0)])
    assert collect(scheduler, launch, (7, True)) == []
    assert scheduler.num_waiting == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((5, True), r"request 0 is over \(stop\) for the host and open for the device"),
        ((7, False), "request 0 is open for the host and over for the device"),
        (None, "request 0 was put to rest by the device before its end"),
    ],
)
def test_a_device_that_thinks_otherwise_is_found_out(
    row: tuple[int, bool] | None, message: str
) -> None:
    scheduler = make()
    scheduler.add([request(0)])
    launches = prefill(scheduler), decode(scheduler)
    collect(scheduler, launches[0], (7, True))
    with pytest.raises(RuntimeError, match=message):
        collect(scheduler, launches[1], row)


def test_a_prompt_in_chunks_draws_with_its_last() -> None:
    scheduler = make()
    scheduler.add([request(0, prompt_len=50)])
    chunks = prefill(scheduler), prefill(scheduler)
    assert scheduler.prefill() is None
    assert [chunk.step.num_tokens for chunk in chunks] == [32, 18]
    assert [chunk.completes for chunk in chunks] == [(False,), (True,)]
    assert [len(chunk.setups) for chunk in chunks] == [1, 0]
    assert [chunk.step.rows[0].sampling is not None for chunk in chunks] == [False, True]
    assert collect(scheduler, chunks[0], None) == []
    assert collect(scheduler, chunks[1], (7, True))[0].token_ids == (7,)


def test_a_prompt_alone_ends_when_all_of_it_is_there() -> None:
    scheduler = make()
    scheduler.add([request(0, prompt_len=50, max_tokens=0)])
    chunks = prefill(scheduler), prefill(scheduler)
    assert scheduler.decode() is None
    assert collect(scheduler, chunks[0], None) == []
    (output,) = collect(scheduler, chunks[1], None)
    assert (output.token_ids, output.finish_reason) == ((), FinishReason.LENGTH)


def test_setups_say_where_a_sequence_ends() -> None:
    scheduler = make()
    options: dict[str, Any] = {"stop_token_ids": (9, 2), "min_tokens": 2, "ignore_eos": True}
    scheduler.add([request(0, max_tokens=10, **options), request(1, 60, max_tokens=30)])
    first, second = prefill(scheduler).setups
    assert (first.num_known, first.prompt_len, first.max_len, first.min_len) == (3, 3, 13, 5)
    assert (first.ending_ids, first.ends) == ((2, 5, 9), (True, False, True))
    assert (second.max_len, second.min_len) == (CONTEXT_LEN + 1, 60)
    assert (second.ending_ids, second.ends) == ((5,), (True,))


def test_a_vocabulary_of_nothing_but_endings_is_not_banned() -> None:
    scheduler = make()
    scheduler.add([request(0, min_tokens=2, stop_token_ids=tuple(range(50)))])
    assert prefill(scheduler).setups[0].min_len == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 0.5, "seed": 3}, False),
        ({"top_k": 3}, True),
        ({"top_p": 0.5}, True),
        ({"min_p": 0.5}, True),
        ({"logit_bias": ((1, 1.0),)}, True),
        ({"repetition_penalty": 1.1}, True),
        ({"presence_penalty": 0.1}, True),
        ({"frequency_penalty": -0.1}, True),
        ({"num_logprobs": 0}, True),
        ({"min_tokens": 1}, True),
    ],
)
def test_who_needs_the_full_step(options: dict[str, Any], expected: bool) -> None:
    scheduler = make()
    scheduler.add([request(0, **options), request(1)])
    launch = prefill(scheduler)
    assert launch.needs_full is expected
    assert launch.num_logprobs == options.get("num_logprobs")
    assert decode(scheduler).needs_full is expected


def test_the_minimum_needs_the_full_step_until_it_is_reached() -> None:
    scheduler = make()
    scheduler.add([request(0, min_tokens=1)])
    collect(scheduler, prefill(scheduler), (7, True))
    assert not decode(scheduler).needs_full


def test_a_batch_and_a_chunk_have_no_more_rows_than_they_may() -> None:
    scheduler = make(num_slots=6, max_rows=2, max_spans=3)
    scheduler.add([request(10 * i) for i in range(6)])
    assert [len(prefill(scheduler).sequences) for _ in range(2)] == [3, 3]
    assert [s.request.request_id for s in decode(scheduler).sequences] == [0, 10]


def test_a_prefix_may_be_copied_as_soon_as_it_is_launched() -> None:
    scheduler = make()
    same = tuple(range(30))
    params = SamplingParams(max_tokens=2)
    scheduler.add([Request(0, same, params), Request(1, same, params)])
    prefill(scheduler)
    (copy,) = prefill(scheduler).step.copies
    assert copy.length == 29
