"""Ten times as many requests as can be served: those admitted are unharmed, the rest refused."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.client import Outcome
from bench.load import closed_loop, open_loop, poisson_times
from bench.timing import percentile
from bench.trouble.counts import Counts, slots_add_up, slots_shown
from bench.trouble.flood import Flood, Sender
from bench.trouble.live import LiveServer, serving
from bench.trouble.promise import MAX_INTER_TOKEN_RATIO, MAX_REFUSAL_S, Extent, Finding

NUM_SLOTS = 8
BUCKETS_S = (*(round(4e-4 * 1.05**step, 6) for step in range(99)), 0.05, 0.1, 0.5, 1.0, 10.0)
"""So fine that a percentile can be read from them."""

TIMES_CAPACITY = 10


@dataclass(frozen=True, slots=True)
class Round:
    """The 99th percentile between tokens: with every slot taken, and under overload too.

    As clients see it, and as the server does.
    """

    full_ms: float
    overload_ms: float
    served_full_ms: float
    served_overload_ms: float
    requests_per_s: float
    sent_per_s: float

    @property
    def ratio(self) -> float:
        """How much longer the admitted wait."""
        return self.overload_ms / self.full_ms

    @property
    def served_ratio(self) -> float:
        """The same by the server's clock."""
        return self.served_overload_ms / self.served_full_ms


@dataclass(frozen=True, slots=True)
class Overload:
    """All rounds; what the clients saw and what the server counted."""

    rounds: tuple[Round, ...]
    seen: dict[str, int]
    counted: dict[str, int]
    num_ended: int
    refused_within: float
    slowest_refusal_s: float
    has_settled: bool
    slots: str

    def _waits(self, who: str, found: Sequence[tuple[float, float, float]]) -> Finding:
        """Medians of what it was, what it is, and the ratio."""
        full, over, ratio = (statistics.median(values) for values in zip(*found, strict=True))
        return Finding(
            f"p99 between tokens, as {who} it, at most {MAX_INTER_TOKEN_RATIO} times that "
            "at full slots",
            f"{ratio:.2f} times ({full:.2f} -> {over:.2f} ms)",
            ratio <= MAX_INTER_TOKEN_RATIO,
        )

    def findings(self) -> list[Finding]:
        """What was promised for it."""
        num_good = self.seen.get("200", 0)
        return [
            self._waits("clients see", [(r.full_ms, r.overload_ms, r.ratio) for r in self.rounds]),
            self._waits(
                "the server sees",
                [(r.served_full_ms, r.served_overload_ms, r.served_ratio) for r in self.rounds],
            ),
            Finding(
                f"refused within {1e3 * MAX_REFUSAL_S:.0f} ms by the server's clock",
                f"{self.refused_within:.2%} of {self.counted.get('429', 0)}, "
                f"all within {1e3 * self.slowest_refusal_s:.0f} ms",
                self.refused_within == 1.0,
            ),
            Finding(
                "none lost, none answered twice",
                f"clients {shown(self.seen)}; server {shown(self.counted)}, "
                f"{self.num_ended} choices ended",
                self.seen == self.counted
                and set(self.seen) == {"200", "429"}
                and self.num_ended == num_good,
            ),
            Finding("every slot is accounted for", self.slots, self.has_settled),
        ]


def shown(counts: dict[str, int]) -> str:
    """Counts by kind, for people."""
    return ", ".join(f"{count} x {kind}" for kind, count in sorted(counts.items())) or "none"


def p99_ms(outcomes: list[Outcome]) -> float:
    """Between two tokens of one answer."""
    good = [outcome for outcome in outcomes if outcome.error is None]
    gaps = [b - a for o in good for a, b in zip(o.event_s, o.event_s[1:], strict=False)]
    return 1e3 * percentile(gaps, 99)


async def one_round(server: LiveServer, sender: Sender, duration_s: float, seed: int) -> Round:
    """Full slots, then overload for about the same time; a tenth of it is sent from here."""
    before = await server.counts()
    full = await closed_loop(sender.send, NUM_SLOTS, None, duration_s)
    elapsed_s = max(o.ended_s for o in full) - min(o.started_s for o in full)
    rate = len(full) / elapsed_s
    between = await server.counts()
    num_requests = max(round(rate * duration_s), 1)
    others = TIMES_CAPACITY - 1
    flood = await Flood.start(server.address, others * rate, others * num_requests, seed)
    flood.begin()
    started_s = time.perf_counter()
    over = await open_loop(sender.send, poisson_times(rate, num_requests, seed))
    sender.seen += await flood.ended()
    elapsed_s = time.perf_counter() - started_s
    after = await server.counts()
    return Round(
        full_ms=p99_ms(full),
        overload_ms=p99_ms(over),
        served_full_ms=served_p99_ms(between.since(before)),
        served_overload_ms=served_p99_ms(after.since(between)),
        requests_per_s=rate,
        sent_per_s=TIMES_CAPACITY * num_requests / elapsed_s,
    )


def served_p99_ms(counts: Counts) -> float:
    """Between two tokens of one answer, by the server's clock."""
    return 1e3 * counts.percentile("inter_token_latency_seconds", 99)


async def overload(extent: Extent) -> Overload:
    """Rounds in turn, after one that is not counted. Raises ServerBroken."""
    options = {
        "--slots": NUM_SLOTS,
        "--max-queued-requests": NUM_SLOTS,
        "--latency-buckets": ",".join(map(str, sorted(BUCKETS_S))),
    }
    async with serving(*(str(part) for option in options.items() for part in option)) as server:
        sender = Sender(server.address, 7)
        rounds = [
            await one_round(server, sender, extent.overload_s, seed)
            for seed in range(extent.overload_rounds + 1)
        ]
        return result_of(tuple(rounds[1:]), dict(sender.seen), await server.settled())


def result_of(rounds: tuple[Round, ...], seen: dict[str, int], counts: Counts) -> Overload:
    """The result, of what the clients saw and what the server counted."""
    return Overload(
        rounds=rounds,
        seen=seen,
        counted={
            status: int(counts.total("requests_total", route="/v1/completions", status=status))
            for status in counts.by_label("requests_total", "status")
            if counts.total("requests_total", route="/v1/completions", status=status)
        },
        num_ended=int(counts.total("completions_total")),
        refused_within=counts.within("refusal_duration_seconds", MAX_REFUSAL_S, status="429"),
        slowest_refusal_s=counts.largest("refusal_duration_seconds", status="429"),
        has_settled=slots_add_up(counts),
        slots=slots_shown(counts),
    )
