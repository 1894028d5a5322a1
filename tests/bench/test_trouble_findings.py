"""Each promise is judged by its own figures: a good result keeps all, one bad figure breaks one."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from bench.client import Outcome
from bench.trouble.counts import Counts
from bench.trouble.engine_faults import EngineFaults
from bench.trouble.exchange import Reply
from bench.trouble.flood import kind_of
from bench.trouble.hostile import Hostile, faults
from bench.trouble.hostile_bodies import Case, cases
from bench.trouble.leaving import Leaving
from bench.trouble.leaving import result_of as leaving_of
from bench.trouble.live import Usage
from bench.trouble.overload import Overload, Round
from bench.trouble.overload import p99_ms as overload_p99_ms
from bench.trouble.overload import result_of as overload_of
from bench.trouble.slow_readers import SlowReaders, p99_ms
from bench.trouble.soak import Errand, Soak, ended, errands, slope_a_minute

USAGE = Usage(0.0, 60.0, 300.0, 20, 10)
SLOTS: dict[str, Any] = {"has_settled": True, "slots": "8 of 8"}

GOOD: dict[str, Any] = {
    "overload": Overload(
        rounds=(
            Round(10.0, 12.0, 8.0, 9.0, 5.0, 50.0),
            Round(10.0, 20.0, 8.0, 16.0, 5.0, 50.0),
            Round(10.0, 11.0, 8.0, 10.4, 5.0, 50.0),
        ),
        seen={"200": 5, "429": 45},
        counted={"200": 5, "429": 45},
        num_ended=5,
        refused_within=1.0,
        slowest_refusal_s=0.05,
        **SLOTS,
    ),
    "leaving": Leaving(10, 4, 6, {}, 10, 9, 9, 5, **SLOTS),
    "slow": SlowReaders(100, 10.0, 13.0, 200.0, 245.0, **SLOTS),
    "faults": EngineFaults(26, 80, {"200": 80}, 0, 80, 26, 0, 0, USAGE, USAGE, **SLOTS),
    "hostile": Hostile(300, {"400": 300}, (), 9, 0, 6.0, 0, True, **SLOTS),
    "soak": Soak(
        600.0, 20.0, {"200": 9, "left": 1, "429": 1}, 0, 0.99, -0.5, USAGE, USAGE, (), **SLOTS
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_result_keeps_every_promise(name: str) -> None:
    findings = GOOD[name].findings()
    assert findings
    assert all(finding.is_kept for finding in findings), findings


@pytest.mark.parametrize(
    ("name", "change", "broken"),
    [
        (
            "overload",
            {"rounds": (Round(10.0, 13.1, 8.0, 9.0, 5.0, 50.0),)},
            "p99 between tokens, as clients",
        ),
        (
            "overload",
            {"rounds": (Round(10.0, 12.0, 8.0, 10.5, 5.0, 50.0),)},
            "p99 between tokens, as the server",
        ),
        ("overload", {"refused_within": 0.999}, "refused"),
        ("overload", {"refused_within": float("nan")}, "refused"),
        ("overload", {"counted": {"200": 5, "429": 44}}, "none lost"),
        ("overload", {"num_ended": 6}, "none lost"),
        (
            "overload",
            {"seen": {"200": 5, "503": 1}, "counted": {"200": 5, "503": 1}},
            "none lost",
        ),
        ("overload", {"has_settled": False}, "every slot"),
        ("leaving", {"has_settled": False}, "every slot"),
        ("leaving", {"num_requests": 9}, "client and server"),
        ("leaving", {"num_ended": 8}, "client and server"),
        ("leaving", {"completed": 3}, "client and server"),
        ("leaving", {"completed": 11}, "client and server"),
        ("leaving", {"failed": {"500": 1}}, "no answer but"),
        ("slow", {"grown_mb": 201.0}, "memory: at most"),
        ("slow", {"again_mb": 246.0}, "memory: as many"),
        ("slow", {"beside_slow_ms": 13.1}, "others wait"),
        ("slow", {"has_settled": False}, "every slot"),
        ("faults", {"num_different": 1}, "every answer"),
        ("faults", {"kinds": {"200": 79, "timeout": 1}}, "every answer"),
        ("faults", {"num_requests": 81}, "client and server"),
        ("faults", {"num_restarts": 25}, "client and server"),
        ("faults", {"num_orphans": 1}, "no process"),
        ("faults", {"num_zombies": 1}, "no process"),
        ("faults", {"after": replace(USAGE, api_files=21)}, "no descriptor"),
        ("faults", {"after": replace(USAGE, engine_files=11)}, "no descriptor"),
        ("faults", {"has_settled": False}, "every slot"),
        ("hostile", {"faults": ("a: 500",)}, "no 5xx"),
        ("hostile", {"num_harmed": 1}, "others get"),
        ("hostile", {"num_beside": 0}, "others get"),
        ("hostile", {"longest_drip_s": 6.1}, "a header"),
        ("hostile", {"is_alive": False}, "the server lives"),
        ("hostile", {"num_restarts": 1}, "the server lives"),
        ("hostile", {"has_settled": False}, "every slot"),
        ("soak", {"api_slope_mb": 1.0}, "memory of the API"),
        ("soak", {"engine_slope_mb": 1.0}, "memory of the engine"),
        ("soak", {"after": replace(USAGE, api_files=21)}, "no descriptor"),
        ("soak", {"after": replace(USAGE, engine_files=11)}, "no descriptor"),
        ("soak", {"kinds": {"200": 9, "timeout": 1}}, "no request"),
        ("soak", {"kinds": {"429": 9}}, "no request"),
        ("soak", {"num_restarts": 1}, "one engine"),
        ("soak", {"has_settled": False}, "every slot"),
    ],
)
def test_one_bad_figure_breaks_one_promise(name: str, change: dict[str, Any], broken: str) -> None:
    findings = replace(GOOD[name], **change).findings()
    assert [one.promise.startswith(broken) for one in findings if not one.is_kept] == [True]


METRICS = """
gpt2_requests_total{model_name="a",route="/v1/completions",status="200"} 3.0
gpt2_requests_total{model_name="a",route="/v1/completions",status="429"} 2.0
gpt2_requests_total{model_name="a",route="/metrics",status="200"} 7.0
gpt2_completions_total{finish_reason="length",model_name="a"} 2.0
gpt2_completions_total{finish_reason="abort",model_name="a"} 1.0
gpt2_request_prompt_tokens_count{model_name="a"} 3.0
gpt2_refusal_duration_seconds_bucket{le="0.05",model_name="a",status="429"} 1.0
gpt2_refusal_duration_seconds_bucket{le="0.1",model_name="a",status="429"} 2.0
gpt2_refusal_duration_seconds_count{model_name="a",status="429"} 2.0
gpt2_slots{model_name="a"} 8.0
gpt2_slots_free{model_name="a"} 6.0
gpt2_slots_in_use{model_name="a"} 0.0
gpt2_slots_warm{model_name="a"} 2.0
"""


def test_overload_takes_its_figures_from_the_server() -> None:
    found = overload_of((Round(*[1.0] * 6),), {"200": 3}, Counts.parse(METRICS))
    assert found.counted == {"200": 3, "429": 2}
    assert (found.num_ended, found.refused_within, found.slowest_refusal_s) == (3, 0.5, 0.1)
    assert (found.has_settled, found.slots) == (True, "6 free + 0 held + 2 warm of 8")


def test_leaving_takes_its_figures_from_the_server() -> None:
    kinds = Counter({"200": 1, "timeout": 3, "unsent": 2, "503": 1})
    found = leaving_of(kinds, Counts.parse(METRICS))
    assert (found.num_clients, found.answered, found.left) == (5, 1, 3)
    assert found.failed == {"503": 1}
    assert (found.num_requests, found.num_admitted) == (5, 3)
    assert (found.num_ended, found.completed) == (3, 2)


def test_percentiles_are_of_answers_that_came() -> None:
    good = Outcome(0.0, [1.0, 1.25, 1.5])
    lost = Outcome(0.0, [1.0, 9.0], error="timeout")
    assert overload_p99_ms([good, lost]) == 250
    assert p99_ms([good]) == 250
    with pytest.raises(RuntimeError, match="failed: timeout"):
        p99_ms([good, lost])
    assert [kind_of(one) for one in (good, lost)] == ["200", "timeout"]
    assert kind_of(Outcome(0.0, error="status 429")) == "429"


def test_which_answers_to_hostile_requests_may_be() -> None:
    whole, cut = Case("whole", b""), Case("cut", b"", is_cut=True)
    may = [(whole, "400"), (whole, "503"), (cut, "hung up")]
    may_not = [(whole, "500"), (whole, "hung up"), (cut, "silence"), (cut, "502")]
    pairs = may + may_not
    found = faults([case for case, _ in pairs], [answer for _, answer in pairs])
    assert found == [f"{case.name}: {answer}" for case, answer in may_not]


def test_there_are_some_hundred_hostile_requests_all_different() -> None:
    made = list(cases())
    assert len({case.data for case in made}) == len({case.name for case in made}) == len(made) > 400


def test_slopes() -> None:
    assert slope_a_minute([(10.0, 5.0), (20.0, 6.0), (30.0, 7.0)]) == pytest.approx(6.0)
    assert slope_a_minute([(0.0, 5.0), (9.0, 5.0)]) == 0
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        slope_a_minute([(0.0, 5.0)])


def test_how_an_errand_ended() -> None:
    stays, leaves = Errand("/", {}), Errand("/", {}, stay_s=1.0)
    whole = Reply(0.0, status=200, finish_reasons={0: ["stop"]})
    twice = Reply(0.0, status=200, finish_reasons={0: ["stop", "stop"]})
    late = Reply(0.0, error="timeout")
    assert [ended(stays, one) for one in (whole, late)] == ["200", "timeout"]
    assert ended(stays, twice) == "a choice without one end"
    assert [ended(leaves, one) for one in (whole, late)] == ["200", "left"]


def test_the_mix_classifies_where_a_task_is_served() -> None:
    draw = random.Random(0)
    paths = {kind(draw).path for kind in errands("mood")}
    assert paths == {"/v1/completions", "/v1/score", "/v1/classify"}
    assert "/v1/classify" not in {kind(draw).path for kind in errands(None)}
