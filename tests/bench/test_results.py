"""Medians, ratios and shares, and what decides a target."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.plots import plot_peers
from bench.results import Result, result, same_dtype_ratios, target_ratios
from bench.scenarios import decoding, prefill
from bench.systems import PEERS, System, ours
from bench.timing import Timing

Q8 = next(peer for peer in PEERS if peer.precision == "Q8_0")
Q4 = next(peer for peer in PEERS if peer.precision == "Q4_0")
SYSTEMS = (ours("int8"), ours("float32"), Q8, Q4)


def one(system: System, *steps_s: float, streams: int = 1) -> Result:
    timings = [Timing(0.1, (step_s,), ((1, 2),) * streams) for step_s in steps_s]
    return result(decoding(streams, 16, 2), system, timings, 0.05, None)


def test_medians_and_the_floor() -> None:
    found = one(Q8, 0.1, 0.2, 0.4)
    assert found.decode_rate == pytest.approx(5)
    assert found.floor_share == pytest.approx(0.25)
    assert (found.step_p50_ms, found.step_p99_ms) == (200, 400)
    assert found.same_ids is None


def test_the_share_of_same_ids() -> None:
    timings = [Timing(0.1, (0.1,), ((1, 2),))]
    reference = [Timing(0.1, (0.1,), ((1, 9),))]
    assert result(decoding(1, 16, 2), Q8, timings, 0.1, reference).same_ids == 0.5


def test_a_prefill_is_faster_where_it_takes_less() -> None:
    quick, slow = (
        result(prefill(16), system, [Timing(prefill_s, (), ((1,),))], 0.1, None)
        for system, prefill_s in ((ours("int8"), 0.1), (Q8, 0.3))
    )
    assert quick.decode_rate is None
    (found,) = target_ratios([quick, slow])
    assert (found.ours, found.peer, found.ratio) == ("ours int8", "llama.cpp Q8_0", 3)


def test_a_peer_is_held_against_ours_in_its_dtype() -> None:
    results = [one(ours("int8"), 0.1), one(ours("float32"), 0.4), one(Q8, 0.2), one(Q4, 0.1)]
    ratios = list(same_dtype_ratios(results, {system.name: system.dtype for system in SYSTEMS}))
    assert [(r.ours, r.peer, r.ratio) for r in ratios] == [("ours int8", "llama.cpp Q8_0", 2)]


def test_one_stream_by_pairs_and_a_batch_by_the_best() -> None:
    alone = [one(ours("int8"), 0.1), one(Q8, 0.2), one(Q4, 0.1)]
    batch = [
        one(system, step_s, streams=8)
        for system, step_s in ((ours("int8"), 0.1), (ours("float32"), 0.2), (Q8, 0.4), (Q4, 0.3))
    ]
    assert [(r.scenario, r.ours, r.peer) for r in target_ratios(alone + batch)] == [
        ("one stream", "ours int8", "llama.cpp Q8_0"),
        ("one stream", "ours int8", "llama.cpp Q4_0"),
        ("8 streams", "ours int8", "llama.cpp Q4_0"),
    ]


def test_plots(tmp_path: Path) -> None:
    results = [one(ours("int8"), 0.1), one(ours("int8"), 0.2, streams=8), one(Q8, 0.3)]
    paths = plot_peers(results, tmp_path / "new")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
