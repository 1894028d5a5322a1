"""A step's statistics: what it did, and how things stand after it."""

from __future__ import annotations

import time

from engine.core import EngineCore
from engine.messages import EngineStats, StepBegins
from engine.request import Request, SamplingParams
from engine.scheduler import Scheduler
from engine.slot_pool import SlotPool
from engine.step import Step, StepResult
from tests.support.fake_runner import FakeRunner

STEP_S = 0.02


class SlowRunner(FakeRunner):
    """Takes a known time."""

    def run(self, step: Step) -> StepResult:
        end_s = time.perf_counter() + STEP_S
        while time.perf_counter() < end_s:
            pass
        return super().run(step)


def request(request_id: int, prompt_len: int, max_tokens: int) -> Request:
    prompt_ids = tuple((request_id * 7 + i) % 50 for i in range(prompt_len))
    return Request(request_id, prompt_ids, SamplingParams(max_tokens=max_tokens))


def slots_of(stats: EngineStats) -> tuple[int, int, int]:
    return stats.num_slots_in_use, stats.num_slots_warm, stats.num_slots_free


def test_stats_tell_the_step_and_the_state_after_it() -> None:
    core = EngineCore(Scheduler(SlotPool(4), 1024, 50), SlowRunner(4, 1024))
    core.submit([request(i, 20, 3) for i in range(5)])
    assert (core.stats.num_waiting, core.stats.num_running, core.stats.num_rows) == (5, 0, 0)
    assert slots_of(core.stats) == (0, 0, 4)
    _, stats = core.step()
    assert STEP_S <= stats.step_s < 50 * STEP_S
    assert stats.phase == "prefill"
    assert (stats.num_rows, stats.num_step_tokens) == (4, 80)
    assert (stats.num_running, stats.num_waiting) == (4, 1)
    assert slots_of(stats) == (4, 0, 0)
    _, stats = core.step()
    assert (stats.phase, stats.num_rows, stats.num_step_tokens) == ("decode", 4, 4)
    core.abort([0])
    assert slots_of(core.stats) == (3, 1, 0)
    _, stats = core.step()  # three end, the fifth is prefilled
    assert (stats.phase, stats.num_rows, stats.num_step_tokens) == ("mixed", 4, 23)
    assert (stats.num_running, stats.num_waiting) == (1, 0)
    assert slots_of(stats) == (1, 3, 0)
    assert core.stats == stats


def test_who_is_computed_is_said_before_it_is() -> None:
    core = EngineCore(Scheduler(SlotPool(4), 1024, 50), FakeRunner(4, 1024))
    begun: list[StepBegins] = []
    core.on_step = begun.append
    core.submit([request(i, 20, 2) for i in range(2)])
    core.step()
    core.step()
    assert begun == [StepBegins((0, 1), 40, "prefill"), StepBegins((0, 1), 2, "decode")]
