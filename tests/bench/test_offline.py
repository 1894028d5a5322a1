"""The benches through the command line, on a tiny network: the table, the last line, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bench.systems import PEERS
from server.cli import main

SMALL = ("--size", "tiny", "--prompt-len", "12", "--num-tokens", "6", "--rounds", "2")
FEW = (*SMALL, "--streams", "1", "--streams", "3", "--prefill", "24", "--threads", "1")


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", *arguments], catch_exceptions=False)


def last_line(told: Result) -> dict[str, Any]:
    assert told.exit_code == 0, told.output
    values: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return values


def test_offline(tmp_path: Path) -> None:
    told = bench(
        *("offline", *FEW, "--late-streams", "3", "--plots", str(tmp_path)),
        *("--dtype", "float32", "--dtype", "int3", "--prefill", "512"),
    )
    values = last_line(told)
    assert [r["scenario"] for r in values["results"]] == ["one stream", "3 streams", "prefill 24"]
    assert all(r["same_ids"] == 1 for r in values["results"])
    (memory,) = values["memory"]
    assert memory["resident_bytes"] > memory["cache_bytes"] > 0
    (late,) = values["late_arrival"]
    assert 0 < late["first_token_ms"] <= late["others_ended_ms"]
    assert any("prefill 512: needs" in line for line in values["left_out"])
    assert any("int3" in line for line in values["left_out"])  # in the engine's own words
    assert {path.name for path in tmp_path.iterdir()} == {"throughput.png", "latency.png"}
    assert "decode tok/s" in told.stdout


def test_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.peers.PEERS", PEERS[:1])  # importing it takes seconds
    told = bench("peers", *FEW, "--dtype", "float32", "--all-rounds")
    values = last_line(told)
    assert {r["system"] for r in values["results"]} == {"ours float32", "transformers float32"}
    assert [r["scenario"] for r in values["ratios"]] == ["one stream", "3 streams", "prefill 24"]
    assert values["read_bytes_per_s"] > 0
    assert values["idle_cpu_s"].keys() == {r["system"] for r in values["results"]}


def test_a_checkpoint_that_is_none(tmp_path: Path) -> None:
    told = bench("offline", "--checkpoint", str(tmp_path))
    assert told.exit_code == 2
    assert "config.json is missing" in told.output


def test_a_size_that_is_none() -> None:
    told = bench("peers", "--size", "gpt3")
    assert told.exit_code == 2
    assert "gpt2-medium" in told.output


def test_no_server() -> None:
    told = bench("serving", "--url", "http://127.0.0.1:1")
    assert told.exit_code == 2
    assert "/v1/models" in told.output
    assert bench("serving", "--url", "https://h").exit_code == 2
