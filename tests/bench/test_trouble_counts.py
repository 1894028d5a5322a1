"""The server's counters, from real metrics: read, compared, judged."""

from __future__ import annotations

import math

import pytest

from bench.trouble.counts import Counts, slots_add_up, slots_shown
from engine.messages import EngineStats
from server.metrics import Metrics
from server.settings import LATENCY_BUCKETS
from tests.server.fake_engine import INFO, FakeEngine


def counts_of(metrics: Metrics, engine: FakeEngine | None = None) -> Counts:
    return Counts.parse(metrics.render(engine or FakeEngine()).decode())


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics('a "quoted" name', "1", LATENCY_BUCKETS)
    made.on_response("/v1/completions", 200, 0.5)
    made.on_response("/v1/completions", 429, 0.004)
    made.on_response("/v1/score", 429, 0.04)
    return made


def test_totals_over_labels(metrics: Metrics) -> None:
    counts = counts_of(metrics)
    assert counts.total("requests_total") == 3
    assert counts.total("requests_total", route="/v1/completions") == 2
    assert counts.total("requests_total", route="/v1/completions", status="429") == 1
    assert counts.total("requests_total", status="503") == counts.total("no_such") == 0
    assert counts.by_label("requests_total", "status") == {"200": 1, "429": 2}


def test_what_was_counted_in_between(metrics: Metrics) -> None:
    before = counts_of(metrics)
    metrics.on_response("/v1/score", 200, 0.1)
    metrics.on_response("/health", 200, 0.1)
    since = counts_of(metrics).since(before)
    assert since.by_label("requests_total", "route") == {"/health": 1, "/v1/score": 1}


def test_a_histogram_tells_the_share_within_a_bound(metrics: Metrics) -> None:
    name = "refusal_duration_seconds"
    assert counts_of(metrics).within(name, 0.05, status="429") == 1.0
    assert counts_of(metrics).largest(name, status="429") == 0.05
    metrics.on_response("/v1/score", 429, 0.06)
    counts = counts_of(metrics)
    assert counts.within(name, 0.05, status="429") == pytest.approx(2 / 3)
    assert counts.within(name, 0.005, status="429") == pytest.approx(1 / 3)
    assert counts.largest(name, status="429") == 0.1
    assert math.isnan(counts.within(name, 0.05, status="404"))
    assert math.isnan(counts.largest(name, status="404"))


def test_a_percentile_is_read_from_buckets(metrics: Metrics) -> None:
    before = counts_of(metrics)
    for duration_s in (0.03, 0.03, 0.07, 0.07):
        metrics.on_response("/v1/score", 429, duration_s)
    counts = counts_of(metrics).since(before)
    name = "refusal_duration_seconds"
    assert counts.percentile(name, 50) == pytest.approx(0.05)
    assert counts.percentile(name, 75) == pytest.approx(0.075)
    assert counts.percentile(name, 25) == pytest.approx(0.035)  # half of the way from 20 to 50 ms
    assert math.isnan(counts.percentile("step_duration_seconds", 50))


@pytest.mark.parametrize(
    ("free", "held", "warm", "is_right"),
    [(1, 0, -1, True), (1, 0, 0, False), (0, 1, -1, False), (0, 0, 0, True)],
)
def test_slots_add_up_when_none_is_held(free: int, held: int, warm: int, is_right: bool) -> None:
    """``warm`` counts from the number of slots."""
    metrics, engine = Metrics("tiny", "1", LATENCY_BUCKETS), FakeEngine()
    metrics.describe_model(INFO)
    num_warm = INFO.num_slots + warm
    engine.stats = EngineStats(num_slots_free=free, num_slots_in_use=held, num_slots_warm=num_warm)
    counts = counts_of(metrics, engine)
    assert slots_add_up(counts) is is_right
    expected = f"{free} free + {held} held + {num_warm} warm of {INFO.num_slots}"
    assert slots_shown(counts) == expected


def test_a_server_without_slots_has_nothing_that_adds_up() -> None:
    assert not slots_add_up(counts_of(Metrics("tiny", "1", LATENCY_BUCKETS)))
