"""The script that waits for a card, tried on a CPU: every part runs, a broken one stops none."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from bench.gpu.correctness import Comparing, relative_error
from bench.gpu.plan import Part, dry_plan
from bench.gpu.speed import sweep
from bench.gpu.vocabulary import write_vocabulary
from bench.gpu_report import Report, main
from model.config import Activation
from model.kernels.gpu import reference
from model.tokenizer import Tokenizer


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_dry_run_has_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    values = main(["--dry"])
    assert values["problems"] == {}
    found = values["found"]
    parts = ["memory", "correctness", "engine", "sweep", "invariance", "start", "http", "peers"]
    assert list(found) == parts
    assert found["invariance"]["torch"] == 1.0
    assert found["correctness"]["float32"]["top1_agreement"] == 1.0
    assert all(one["rate"] > 0 for one in found["engine"].values())
    assert found["http"]["idle_first_token_s"] > 0
    assert found["peers"]["eager B=1"]["ours_is_times"] > 0
    printed = capsys.readouterr().out.splitlines()
    assert json.loads(printed[-1])["device"] == "a CPU, dry"


def test_a_part_that_fails_is_told_and_the_next_one_runs() -> None:
    said: list[str] = []
    report = Report(said.append)

    def broken() -> Part:
        raise RuntimeError("out of memory")

    report.part("first", broken)
    report.part("second", lambda: Part(("a", "b"), [("x", 1)], {"x": 1}))
    assert report.problems == {"first": "RuntimeError: out of memory"}
    assert report.found == {"second": {"x": 1}}
    assert "RuntimeError: out of memory" in said[0]


def test_no_part_is_begun_when_the_time_is_up() -> None:
    report = Report(lambda _: None, budget_s=0.0)
    time.sleep(0.001)
    report.part("late", lambda: pytest.fail("begun"))
    assert report.problems == {"late": "no time left"}


def test_what_there_is_no_time_for_is_left_out_and_named(tmp_path: Path) -> None:
    part = sweep(dry_plan(tmp_path), 1e12, lambda: False)
    assert part.values == {}
    assert {row[-1] for row in part.rows} == {"no time left"}


class Off:
    """The references, one of them a little wrong."""

    def activate(self, wide: torch.Tensor, activation: Activation) -> None:
        reference.activate(wide, activation)
        wide *= 1.01


def test_an_operation_that_is_off_is_found_out() -> None:
    comparing = Comparing(Off())
    comparing.activate(torch.randn(4, 8), "relu")
    assert comparing.errors["activate"] == pytest.approx(0.01, rel=1e-3)


def test_poison_on_one_side_alone_is_an_infinite_error() -> None:
    nan = torch.tensor([1.0, float("nan")])
    assert relative_error(nan, nan) == 0
    assert relative_error(nan, torch.ones(2)) == float("inf")


def test_a_made_up_vocabulary_can_be_served(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_directory(write_vocabulary(tmp_path, 1_000))
    assert tokenizer.vocab_size == 1_000
    text = "Any text, aéü 世界"
    assert tokenizer.decode(tokenizer.encode(text)) == text
