"""Taking turns: the order, who is screened out, who fails in the middle."""

from __future__ import annotations

from typing import Any, cast

from bench.child import Worker, WorkerFailed
from bench.comparison import Disturbance, Field, alternate, disturbed
from bench.scenarios import Scenario, decoding
from bench.systems import PEERS, System, ours
from bench.timing import Timing

SLOW, QUICK = PEERS[0], PEERS[1]


class FakeWorker:
    """A step takes as long as it was told; ``fails_at`` the call with this number."""

    def __init__(self, system: System, step_s: float, log: list[str], fails_at: int = -1) -> None:
        self.system = system
        self.is_closed = False
        self._step_s = step_s
        self._log = log
        self._fails_at = fails_at

    def prepare(self, scenario: Scenario) -> None:
        pass

    def generate(self, prompts: list[list[int]], num_tokens: int) -> Timing:
        if self._log.count(self.system.name) == self._fails_at:
            raise WorkerFailed(f"{self.system.name} ended")
        self._log.append(self.system.name)
        steps_s = (self._step_s,) * (num_tokens - 1)
        return Timing(0.1, steps_s, ((0,) * num_tokens,) * len(prompts))

    def close(self) -> None:
        self.is_closed = True


class FakeMeter:
    """What other programs took in one round after the other, and then nothing."""

    def __init__(self, *cores: float) -> None:
        self._cores = list(cores)

    def start(self) -> None:
        pass

    def cores(self) -> float:
        return self._cores.pop(0) if self._cores else 0.0


def entrants(*fakes: FakeWorker, meter: FakeMeter | None = None) -> Field:
    return Field([cast("Worker", fake) for fake in fakes], meter or FakeMeter())


def say(_text: str) -> None:
    pass


def test_turns_turn_around_after_one_uncounted_round() -> None:
    log: list[str] = []
    running = entrants(FakeWorker(ours("int8"), 0.1, log), FakeWorker(QUICK, 0.1, log))
    timings = alternate(running, decoding(1, 4, 2), 97, 2, say)
    a, b = "ours int8", QUICK.name
    assert log == [a, b, b, a, a, b]
    assert {name: len(found) for name, found in timings.items()} == {a: 2, b: 2}


def test_the_slow_leave_the_batches_but_not_the_single_stream() -> None:
    log: list[str] = []
    fakes = FakeWorker(ours("int8"), 9.0, log), FakeWorker(SLOW, 1.0, log)
    running = entrants(*fakes, FakeWorker(QUICK, 0.1, log))
    options: dict[str, Any] = {"is_screening": True}
    assert len(alternate(running, decoding(1, 4, 2), 97, 1, say, **options)) == 3
    assert SLOW.name not in alternate(running, decoding(8, 4, 2), 97, 1, say, **options)
    assert len(running.screened) == 1  # ours is slower yet, but the best of its side
    log.clear()
    alternate(running, decoding(32, 4, 2), 97, 1, say, **options)
    assert SLOW.name not in log


def test_a_batch_is_another_chance_for_who_is_not_hopeless() -> None:
    """Half the speed at 8 may be the best at 64."""
    log: list[str] = []
    running = entrants(FakeWorker(SLOW, 0.2, log), FakeWorker(QUICK, 0.1, log))
    assert SLOW.name not in alternate(running, decoding(8, 4, 2), 97, 1, say, is_screening=True)
    log.clear()
    alternate(running, decoding(32, 4, 2), 97, 1, say, is_screening=True)
    assert log.count(SLOW.name) == 1


def test_disturbed_rounds_are_done_again_and_not_counted() -> None:
    log: list[str] = []
    running = entrants(FakeWorker(QUICK, 0.1, log), meter=FakeMeter(0.0, 0.9, 0.0))
    timings = alternate(running, decoding(1, 4, 2), 97, 3, say)
    assert len(log) == 1 + 4
    assert len(timings[QUICK.name]) == 3
    assert running.disturbances == [Disturbance("one stream", 0.0, 1)]
    assert list(disturbed(running.disturbances)) == [
        "one stream: 1 disturbed rounds were done again"
    ]


def test_a_machine_that_is_never_quiet_is_told() -> None:
    log: list[str] = []
    running = entrants(FakeWorker(QUICK, 0.1, log), meter=FakeMeter(0.5, 0.4, 0.3, 0.2))
    assert len(alternate(running, decoding(1, 4, 2), 97, 2, say)[QUICK.name]) == 2
    (told,) = disturbed(running.disturbances)
    assert "DISTURBED" in told
    assert "0.40 cores" in told


def test_who_fails_is_named_and_the_others_go_on() -> None:
    log: list[str] = []
    failing = FakeWorker(QUICK, 0.1, log, fails_at=2)
    running = entrants(FakeWorker(ours("int8"), 0.1, log), failing)
    timings = alternate(running, decoding(1, 4, 2), 97, 3, say)
    assert timings.keys() == {"ours int8"}
    assert running.left_out == [f"{QUICK.name} ended"]
    assert failing.is_closed
