"""All that is to be known of the engine on a GPU, in under nine minutes: ``-m bench.gpu_report``.

One table a part, and one JSON line at the end. A part that fails prints its error, and the rest
goes on. ``--dry`` does all of it once in tiny shapes on a CPU, to try the script itself.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.gpu import correctness, service, speed
from bench.gpu.plan import HasTime, Part, Plan, dry_plan
from bench.machine import circumstances
from bench.report import json_line, table

BUDGET_S = 480.0
"""After this long nothing else is begun; what runs then, a compilation at worst, takes a minute."""

SWEEP_SHARE = 0.55
"""Of the budget: the last rows of the sweep are left out before the server and the peers are."""

ASSUMED_COPY_RATE = 4.3e12
"""Of an H200, should measuring it fail."""


class Report:
    """Parts one after the other, and what they found by name."""

    def __init__(self, say: Callable[[str], None], budget_s: float = BUDGET_S) -> None:
        self.found: dict[str, Any] = {}
        self.problems: dict[str, str] = {}
        self._say = say
        self._started_s = time.perf_counter()
        self._budget_s = budget_s

    def has_time(self, share: float = 1.0) -> bool:
        """Whether less than this share of the budget is used up."""
        return time.perf_counter() - self._started_s < share * self._budget_s

    def part(self, name: str, measure: Callable[[], Part]) -> None:
        """Measure and print; an error is what this part found."""
        started_s = time.perf_counter()
        if not self.has_time():
            self.problems[name] = "no time left"
            self._say(f"\n{name}: no time left")
            return
        try:
            part = measure()
        except Exception as error:  # noqa: BLE001  # the other parts are still wanted
            self.problems[name] = f"{type(error).__name__}: {error}"
            self._say(f"\n{name} failed:\n{traceback.format_exc()}")
            return
        self.found[name] = part.values
        elapsed_s = time.perf_counter() - started_s
        self._say(f"\n{table(part.heads, part.rows)}\n{name}: {elapsed_s:.0f} s")


def measure(plan: Plan, report: Report) -> None:
    """Every part, what matters most first."""
    report.part("memory", lambda: speed.bandwidth(plan))
    copy_rate = report.found.get("memory", {}).get("copy", ASSUMED_COPY_RATE)
    report.part("correctness", lambda: correctness.measure(plan))
    report.part("engine", lambda: speed.engine(plan))
    rates = {
        batch: report.found.get("engine", {}).get(f"B={batch}", {}).get("rate")
        for batch in plan.peer_batches
    }
    ours = {batch: rate for batch, rate in rates.items() if rate}
    sweep_time = partial(report.has_time, SWEEP_SHARE)
    report.part("sweep", lambda: speed.sweep(plan, copy_rate, sweep_time))
    report.part("invariance", lambda: speed.invariance(plan))
    report.part("start", lambda: service.first_token(plan))
    report.part("http", lambda: service.http(plan, ours))
    report.part("peers", lambda: _peers(plan, ours, report.has_time))


def _peers(plan: Plan, ours: dict[int, float], has_time: HasTime) -> Part:
    """transformers is imported here, so that without it the other parts are there."""
    from bench.gpu import peers

    return peers.measure(plan, ours, has_time)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Entry of the script; the values of the JSON line."""
    parser = argparse.ArgumentParser(prog="bench.gpu_report", description=__doc__)
    parser.add_argument("--dry", action="store_true", help="tiny shapes on the CPU")
    is_dry = parser.parse_args(arguments).dry
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        plan = dry_plan(scratch) if is_dry else Plan(is_dry=False, scratch=scratch)
        report = Report(partial(print, flush=True))
        name = "a CPU, dry" if is_dry else torch.cuda.get_device_name(0)
        print(f"GPU report on {name}")
        measure(plan, report)
    values = {
        **circumstances("gpu_report", torch.get_num_threads(), versions()),
        "device": name,
        "found": report.found,
        "problems": report.problems,
    }
    print(json_line(values))
    return values


def versions() -> dict[str, str]:
    """Of what takes part and is installed."""
    found = {}
    for name in ("gpt2-server", "torch", "triton", "transformers"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
