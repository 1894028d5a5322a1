"""Systems in turn, round after round: what each took, and who is too slow for another round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from bench.child import Worker, WorkerFailed
from bench.quiet import ForeignMeter
from bench.scenarios import Scenario
from bench.timing import Timing

SCREEN_SHARE = 0.6
"""Of the best speed of its side: below it, a system is not measured again at this batch."""

HOPELESS_SHARE = 0.4
"""Below it, nor at larger batches. A batch takes seconds, and rounds belong to who could win."""

MAX_FOREIGN_CORES = 0.1
"""What other programs may take; a round in which they took more is done again."""

Say = Callable[[str], None]
Round = dict[str, Timing]
T = TypeVar("T")


class Meter(Protocol):
    """ForeignMeter, or something quieter in tests."""

    def start(self) -> None:
        """Count from here on."""

    def cores(self) -> float:
        """What other programs took."""


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Cores that other programs took, the most in a counted round; rounds that were not counted."""

    scenario: str
    foreign_cores: float
    num_discarded: int


@dataclass
class Field:
    """Who takes part, and who no longer does."""

    workers: list[Worker]
    meter: Meter
    left_out: list[str] = field(default_factory=list)
    screened: list[str] = field(default_factory=list)
    hopeless: set[str] = field(default_factory=set)
    disturbances: list[Disturbance] = field(default_factory=list)

    def drop(self, worker: Worker, reason: str) -> None:
        """It failed: it is named, and measured no more."""
        self.left_out.append(reason)
        self.workers.remove(worker)
        worker.close()

    def screen(self, contenders: Sequence[Worker], scenario: Scenario, first: Round) -> set[str]:
        """Who is too slow for this batch, each side for itself; ``first`` tells."""
        slow = set()
        for is_ours in (True, False):
            side = {
                w.system.name: first[w.system.name].decode_rate
                for w in contenders
                if w.system.is_ours == is_ours and w.system.name in first
            }
            best = max(side.values(), default=0.0)
            for name, rate in side.items():
                if rate < SCREEN_SHARE * best:
                    slow.add(name)
                    self.screened.append(
                        f"{scenario.name}: {name} had {rate:,.0f} tokens/s in the uncounted round, "
                        f"the best of its side {best:,.0f}; not measured again"
                    )
                if rate < HOPELESS_SHARE * best:
                    self.hopeless.add(name)
        return slow


def alternate(
    entrants: Field,
    scenario: Scenario,
    vocab_size: int,
    rounds: int,
    say: Say,
    *,
    between: Callable[[], None] = lambda: None,
    is_screening: bool = False,
) -> dict[str, list[Timing]]:
    """Every contender once a round, after one uncounted round; who failed is dropped and named.

    The order turns around from round to round; ``between`` is called before each. While other
    programs disturb there are more rounds, at most half as many again, and the quietest count.
    """
    say(f"{scenario.name} ...")
    is_batch = scenario.num_streams > 1
    contenders = [
        w for w in entrants.workers if not (is_batch and w.system.name in entrants.hopeless)
    ]
    for worker in contenders:
        attempt(entrants, worker, partial(worker.prepare, scenario))
    first = one_round(entrants, contenders, scenario, scenario.prompts(vocab_size, 0))
    if is_screening and is_batch:
        slow = entrants.screen(contenders, scenario, first)
        contenders = [w for w in contenders if w.system.name not in slow]
    found: list[tuple[float, int, Round]] = []
    while len(found) < rounds or (
        len(found) < rounds + rounds // 2 and sum(f[0] <= MAX_FOREIGN_CORES for f in found) < rounds
    ):
        between()
        index = len(found) + 1
        order = contenders[::-1] if index % 2 else contenders
        entrants.meter.start()
        done = one_round(entrants, order, scenario, scenario.prompts(vocab_size, index))
        found.append((entrants.meter.cores(), index, done))
    counted = sorted(found, key=lambda one: one[:2])[:rounds]
    entrants.disturbances.append(Disturbance(scenario.name, counted[-1][0], len(found) - rounds))
    return by_system([done for _, _, done in sorted(counted, key=lambda one: one[1])])


def by_system(rounds: Sequence[Round]) -> dict[str, list[Timing]]:
    """Only who was there in every round."""
    names = [name for name in rounds[0] if all(name in one for one in rounds)]
    return {name: [one[name] for one in rounds] for name in names}


def one_round(
    entrants: Field, order: Sequence[Worker], scenario: Scenario, prompts: list[list[int]]
) -> Round:
    """Each once, but for those that have failed."""
    timings: Round = {}
    for worker in [w for w in order if w in entrants.workers]:
        done = attempt(entrants, worker, partial(worker.generate, prompts, scenario.num_tokens))
        if done is not None:
            timings[worker.system.name] = done
    return timings


def attempt(entrants: Field, worker: Worker, action: Callable[[], T]) -> T | None:
    """What ``action`` returns; None where the system failed, which is then out."""
    try:
        return action()
    except WorkerFailed as error:
        entrants.drop(worker, str(error))
        return None


def disturbed(disturbances: Sequence[Disturbance]) -> Iterator[str]:
    """A line for each scenario that other programs disturbed."""
    for found in disturbances:
        if found.foreign_cores > MAX_FOREIGN_CORES or found.num_discarded:
            yield (
                f"{found.scenario}: DISTURBED, other programs took up to "
                f"{found.foreign_cores:.2f} cores in a counted round"
                if found.foreign_cores > MAX_FOREIGN_CORES
                else f"{found.scenario}: {found.num_discarded} disturbed rounds were done again"
            )


@contextmanager
def running(workers: Sequence[Worker]) -> Iterator[None]:
    """All of them are gone afterwards, whatever happens."""
    try:
        yield
    finally:
        for worker in workers:
            worker.close()


def ready(workers: Sequence[Worker], left_out: Sequence[str], say: Say) -> Field:
    """All that load."""
    meter = ForeignMeter(lambda: sum(worker.spent_s() for worker in workers))
    entrants = Field(list(workers), meter, list(left_out))
    for worker in workers:
        say(f"loading {worker.system.name} ...")
        attempt(entrants, worker, worker.await_ready)
    return entrants
