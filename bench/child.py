"""Worker: a measured system's process, as the one who measures holds it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from bench.scenarios import Scenario
from bench.systems import System
from bench.timing import Timing
from engine.child import child_environment, describe_exit

PAUSE_S = 0.05
"""Between two systems: OpenMP's threads spin for some milliseconds before they sleep."""


class WorkerFailed(Exception):
    """The system cannot be measured; why, in its own words."""


class Worker:
    """Owns the process until ``close``.

    ``idle_cpu_s`` is the time on a processor that it took while it was not its turn: proof that
    it slept while others were measured.
    """

    def __init__(
        self,
        system: System,
        folder: Path,
        scratch: Path,
        num_threads: int,
        max_streams: int,
        max_context: int | None = None,
    ) -> None:
        self.system = system
        self.idle_cpu_s = 0.0
        self._log = scratch / f"{system.adapter}-{system.precision}.log"
        options = {
            "--adapter": system.adapter,
            "--precision": system.precision,
            "--folder": folder,
            "--scratch": scratch,
            "--num-threads": num_threads,
            "--max-streams": max_streams,
            "--parent-pid": os.getpid(),
        }
        if max_context is not None:
            options["--max-context"] = max_context
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "bench.worker"]
                + [str(part) for option in options.items() for part in option],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(system, num_threads),
            )
        self._cpu_s: float | None = None
        self._last_spent_s = 0.0

    def await_ready(self) -> None:
        """Loaded. Raises WorkerFailed, also for what the system refuses."""
        self._answer()

    def prepare(self, scenario: Scenario) -> None:
        """Make room for ``scenario``."""
        self.ask("prepare", num_streams=scenario.num_streams, total_len=scenario.total_len)

    def generate(self, prompts: list[list[int]], num_tokens: int) -> Timing:
        """One measured run."""
        answer = self.ask("generate", prompts=prompts, num_tokens=num_tokens)
        rows = tuple(tuple(row) for row in answer["token_ids"])
        return Timing(answer["prefill_s"], tuple(answer["step_s"]), rows)

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """Have it do something, after a pause in which whoever was before falls asleep."""
        time.sleep(PAUSE_S)
        if self._cpu_s is not None:
            self.idle_cpu_s += self.spent_s() - self._cpu_s
        if self._process.stdin is None:
            raise WorkerFailed(f"{self.system.name} has no input")
        try:
            self._process.stdin.write(json.dumps({"do": do, **details}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._death() from error
        answer = self._answer()
        time.sleep(PAUSE_S)
        self._cpu_s = self.spent_s()
        return answer

    def spent_s(self) -> float:
        """Processor time so far; of an ended process, what it had when last asked."""
        with suppress(psutil.NoSuchProcess):
            times = psutil.Process(self._process.pid).cpu_times()
            self._last_spent_s = float(times.user + times.system)
        return self._last_spent_s

    def close(self) -> None:
        """End the process and reap it."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise WorkerFailed(f"{self.system.name}: {answer['refused']}")
        return answer

    def _death(self) -> WorkerFailed:
        end = describe_exit(self._process.wait())
        last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        return WorkerFailed(f"{self.system.name} {end}: {''.join(last)[:200]}")


def environment(system: System, num_threads: int) -> dict[str, str]:
    """Ours starts as the server's engine does; peers keep their own way of waiting."""
    values = {**child_environment(), "OMP_NUM_THREADS": str(num_threads)}
    if not system.is_ours and "GOMP_SPINCOUNT" not in os.environ:
        values.pop("GOMP_SPINCOUNT", None)
    return {**values, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
