"""DeviceCore: keep the device's queue filled, and hand on what has come back.

The same face as EngineCore. A pass queues launches without looking at earlier results, waits for
the oldest and takes in all that have landed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from engine.device.fault import device_errors
from engine.device.launch import DecodeLaunch, Launch, PrefillLaunch
from engine.device.run_ahead import RunAhead
from engine.device.runner import DeviceRunner, Flight
from engine.device.scheduler import PipelinedScheduler
from engine.messages import EngineStats, StepBegins
from engine.request import Request, TokenOutput
from engine.stream import join_outputs

MAX_PREFILLS_AHEAD = 2
"""Chunks queued at once: one computes while the next is prepared."""


class DeviceCore:
    """One engine: a scheduler, a runner, and the flights between them. Used from one thread.

    ``on_step``, if given, hears what is in flight whenever something is about to join.
    """

    def __init__(
        self,
        scheduler: PipelinedScheduler,
        runner: DeviceRunner,
        run_ahead: RunAhead | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self.run_ahead = run_ahead or RunAhead()
        self.on_step: Callable[[StepBegins], None] | None = None
        self._flights: deque[Flight] = deque()
        self._was_prefill = False
        self._waited_s = 0.0
        self._ended_s = 0.0
        self._last = EngineStats()

    def submit(self, requests: Iterable[Request]) -> None:
        """Queue requests; they join behind what is on its way."""
        self.scheduler.add(requests)

    def abort(self, request_ids: Iterable[int]) -> None:
        """Forget requests; their slots are free when nothing in flight uses them."""
        self.scheduler.abort(request_ids)

    @property
    def has_work(self) -> bool:
        """Whether :meth:`step` would do anything."""
        return self.scheduler.has_work

    def step(self) -> tuple[list[TokenOutput], EngineStats]:
        """Queue what there is room for, wait for the oldest launch, and say what came back.

        Raises DeviceFault, after which the core is of no use.
        """
        started_s = time.perf_counter()
        between_s = started_s - self._ended_s if self._flights else 0.0
        self._waited_s = 0.0
        with device_errors():
            self._launch()
            landed = self._collect()
        outputs = _joined(output for _, outputs in landed for output in outputs)
        self._ended_s = time.perf_counter()
        step_s = self._ended_s - started_s
        # What our caller does between two passes, the device has to bridge as well.
        self.run_ahead.observe_host(between_s + step_s - self._waited_s)
        self._last = _summary([flight for flight, _ in landed], step_s)
        return outputs, self.stats

    def _launch(self) -> None:
        num_prefills = sum(isinstance(f.launch, PrefillLaunch) for f in self._flights)
        num_decodes = len(self._flights) - num_prefills
        while num_prefills < MAX_PREFILLS_AHEAD and not self._is_decodes_turn:
            prefill = self.scheduler.prefill()
            if prefill is None:
                break
            self._tell(prefill)
            self._flights.append(self.runner.prefill(prefill))
            self._was_prefill = True
            num_prefills += 1
        depth = self.run_ahead.depth(self.scheduler.num_waiting > 0)
        while num_decodes < depth and (decode := self.scheduler.decode()):
            self._tell(decode)
            self._flights.append(self.runner.decode(decode))
            self._was_prefill = False
            num_decodes += 1

    def _tell(self, launch: PrefillLaunch | DecodeLaunch) -> None:
        """A fault shows when something lands, so all that is in flight may be what broke."""
        if self.on_step is None:
            return
        launches = [*(flight.launch for flight in self._flights), launch]
        ids = (s.request.request_id for one in launches for s in one.sequences)
        num_tokens = sum(map(_num_tokens, launches))
        self.on_step(StepBegins(tuple(dict.fromkeys(ids)), num_tokens, _phase(launches)))

    @property
    def _is_decodes_turn(self) -> bool:
        """Chunks take turns with decode steps, so that what runs is not held up by two."""
        return self._was_prefill and self.scheduler.num_decoding > 0

    def _collect(self) -> list[tuple[Flight, list[TokenOutput]]]:
        """Everything that has landed, the oldest waited for."""
        landed: list[tuple[Flight, list[TokenOutput]]] = []
        while self._flights and (not landed or self._flights[0].is_landed):
            flight = self._flights.popleft()
            started_s = time.perf_counter()
            results = self.runner.collect(flight)
            self._waited_s += 0.0 if landed else time.perf_counter() - started_s
            self._observe(flight)
            landed.append((flight, self.scheduler.collect(flight.launch, results)))
        return landed

    def _observe(self, flight: Flight) -> None:
        launch, device_s = flight.launch, flight.device_s
        if isinstance(launch, PrefillLaunch):
            self.scheduler.observe(0, launch.step.num_tokens, device_s)
        else:
            self.scheduler.observe(len(launch.sequences), 0, device_s)
            self.run_ahead.observe_step(device_s)

    @property
    def stats(self) -> EngineStats:
        """The last pass, and how things stand now."""
        pool, last = self.scheduler.pool, self._last
        return EngineStats(
            step_s=last.step_s,
            phase=last.phase,
            num_rows=last.num_rows,
            num_step_tokens=last.num_step_tokens,
            num_running=self.scheduler.num_running,
            num_waiting=self.scheduler.num_waiting,
            num_slots_in_use=pool.num_held,
            num_slots_warm=pool.num_warm,
            num_slots_free=pool.num_free,
        )


def _summary(flights: list[Flight], step_s: float) -> EngineStats:
    launches = [flight.launch for flight in flights]
    return EngineStats(
        step_s=step_s,
        phase=_phase(launches),
        num_rows=max((len(x.sequences) for x in launches), default=0),
        num_step_tokens=sum(map(_num_tokens, launches)),
    )


def _phase(launches: Iterable[Launch]) -> str:
    phases = {"decode" if isinstance(x, DecodeLaunch) else "prefill" for x in launches}
    return "mixed" if len(phases) > 1 else next(iter(phases), "decode")


def _num_tokens(launch: Launch) -> int:
    if isinstance(launch, PrefillLaunch):
        return launch.step.num_tokens
    return len(launch.sequences)


def _joined(outputs: Iterable[TokenOutput]) -> list[TokenOutput]:
    """One output a request, in the order of their first."""
    by_id: dict[int, list[TokenOutput]] = {}
    for output in outputs:
        by_id.setdefault(output.request_id, []).append(output)
    return [join_outputs(group) for group in by_id.values()]
