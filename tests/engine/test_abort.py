"""A reader that leaves, whatever its request is doing: after the next step its slot is nobody's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.core import EngineCore
from engine.request import Request, SamplingParams, TaskParams
from engine.scheduler import Scheduler
from engine.slot_pool import SlotPool
from tests.support.fake_runner import FakeRunner

CONTEXT_LEN = 2_048
VOCAB_SIZE = 50
LONG = tuple(index % VOCAB_SIZE for index in range(1_500))
SHORT = (1, 2, 3)
OTHER = Request(1, (7, 8, 9), SamplingParams(max_tokens=100))

Situation = tuple[Request, int]
"""A request, and the steps that it makes before its reader leaves."""

SITUATIONS: dict[str, Situation] = {
    "waiting": (Request(2, SHORT, SamplingParams(max_tokens=50)), 0),
    "in the middle of its prompt": (Request(2, LONG, SamplingParams(max_tokens=50)), 1),
    "after its first token": (Request(2, SHORT, SamplingParams(max_tokens=50)), 1),
    "decoding": (Request(2, SHORT, SamplingParams(max_tokens=50)), 5),
    "echoed": (Request(2, LONG, SamplingParams(max_tokens=5, num_prompt_logprobs=1)), 1),
    "scored": (Request(2, LONG, SamplingParams(max_tokens=0, num_prompt_logprobs=1)), 1),
    "classified": (
        Request(2, LONG, SamplingParams(max_tokens=0), task=TaskParams("sentiment")),
        1,
    ),
}


def make_core(num_slots: int) -> EngineCore:
    runner = FakeRunner(num_slots, CONTEXT_LEN, VOCAB_SIZE)
    return EngineCore(Scheduler(SlotPool(num_slots), CONTEXT_LEN, VOCAB_SIZE), runner)


def steps(core: EngineCore, count: int) -> None:
    for _ in range(count):
        core.step()


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS.keys())
@pytest.mark.parametrize("has_company", [False, True])
def test_its_slot_is_free_after_the_next_step(situation: Situation, *, has_company: bool) -> None:
    leaving, num_steps = situation
    core = make_core(num_slots=2)
    if has_company:
        core.submit([OTHER])
        core.step()
    core.submit([leaving])
    steps(core, num_steps)
    assert core.scheduler.num_running == has_company + (num_steps > 0), "it is not done before"
    core.abort([leaving.request_id])
    if has_company:
        assert [output.request_id for output in core.step()[0]] == [OTHER.request_id]
    assert core.has_work == has_company
    assert core.scheduler.pool.num_held == has_company
    assert core.scheduler.num_waiting == 0
    core.scheduler.check_integrity()


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS.keys())
def test_who_leaves_during_a_step_is_not_in_what_it_brings(situation: Situation) -> None:
    leaving, num_steps = situation
    core = make_core(num_slots=1)
    core.submit([leaving])
    steps(core, num_steps)
    step = core.scheduler.schedule()
    core.abort([leaving.request_id])
    assert core.scheduler.update(step, core.runner.run(step), step_s=0.001) == []
    assert core.scheduler.pool.num_held == 0
    core.scheduler.check_integrity()


@pytest.mark.parametrize("make_room", [True, False])
def test_who_waits_gets_the_slot_of_who_left(*, make_room: bool) -> None:
    core = make_core(num_slots=1)
    core.submit([Request(1, LONG, SamplingParams(max_tokens=9))])
    core.submit([Request(2, SHORT, SamplingParams(max_tokens=1))])
    core.step()
    abort: Callable[[list[int]], None] = core.abort
    if make_room:
        abort([1])
    brought = [output.request_id for output in core.step()[0]]
    assert (brought == [2]) == make_room
