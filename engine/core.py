"""EngineCore: schedule, run, update. Also the offline API: no process, no event loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from engine.messages import EngineStats, StepBegins
from engine.request import Request, TokenOutput
from engine.scheduler import Scheduler
from engine.step import Step, StepResult


class StepRunner(Protocol):
    """What computes a step; engine/runner.py, or something simpler in tests."""

    def run(self, step: Step) -> StepResult:
        """Compute the step."""
        ...


class EngineCore:
    """One engine: a scheduler and a runner. Used from one thread.

    ``on_step``, if given, hears what a step computes before it is computed.
    """

    def __init__(self, scheduler: Scheduler, runner: StepRunner) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self.on_step: Callable[[StepBegins], None] | None = None
        self._last = EngineStats()

    def submit(self, requests: Iterable[Request]) -> None:
        """Queue requests; they join at the next step."""
        self.scheduler.add(requests)

    def abort(self, request_ids: Iterable[int]) -> None:
        """Forget requests; their slots are free at once."""
        self.scheduler.abort(request_ids)

    @property
    def has_work(self) -> bool:
        """Whether :meth:`step` would compute anything."""
        return self.scheduler.has_work

    def step(self) -> tuple[list[TokenOutput], EngineStats]:
        """Do one step and say what it brought."""
        started_s = time.perf_counter()
        step = self.scheduler.schedule()
        if self.on_step is not None:
            request_ids = tuple(row.request_id for row in step.rows)
            self.on_step(StepBegins(request_ids, step.num_tokens, step.phase))
        result = self.runner.run(step)
        outputs = self.scheduler.update(step, result, time.perf_counter() - started_s)
        self._last = EngineStats(
            step_s=time.perf_counter() - started_s,
            phase=step.phase,
            num_rows=len(step.rows),
            num_step_tokens=step.num_tokens,
        )
        return outputs, self.stats

    @property
    def stats(self) -> EngineStats:
        """The last step, and how things stand now."""
        pool = self.scheduler.pool
        return EngineStats(
            step_s=self._last.step_s,
            phase=self._last.phase,
            num_rows=self._last.num_rows,
            num_step_tokens=self._last.num_step_tokens,
            num_running=self.scheduler.num_running,
            num_waiting=self.scheduler.num_waiting,
            num_slots_in_use=pool.num_held,
            num_slots_warm=pool.num_warm,
            num_slots_free=pool.num_free,
        )
