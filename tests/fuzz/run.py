"""``python -m tests.fuzz.run --seconds N [NAME ...]``: each target in a process of its own.

Prints a line for each; what made one fail lies in build/fuzz/NAME, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
MAX_INPUT_S = 20
"""One input that takes longer is a finding."""

MAX_MEMORY_MB = 2_048
"""So is one that needs more; torch takes a fifth of it."""

START_S = 120
_EXECUTED = re.compile(r"number_of_executed_units: (\d+)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one target fared."""

    name: str
    executed: int
    is_good: bool
    output: str


def fuzz(name: str, seconds: int) -> Outcome:
    """Run one target; seeds and what was learnt from them lie in build/fuzz."""
    folder = ROOT / "build" / "fuzz" / name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(TARGETS[name].seeds()):
        (corpus / f"seed-{index}").write_bytes(seed)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzz.child", name, str(corpus)),
            *(f"-max_total_time={seconds}", f"-timeout={MAX_INPUT_S}"),
            *(f"-rss_limit_mb={MAX_MEMORY_MB}", "-max_len=20000", "-print_final_stats=1"),
            f"-artifact_prefix={folder}/",
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=seconds + START_S,
        check=False,
    )
    output = (done.stdout + done.stderr).decode(errors="replace")
    executed = _EXECUTED.search(output)
    return Outcome(name, int(executed[1]) if executed else 0, done.returncode == 0, output)


def main() -> int:
    """All targets, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, required=True, help="for each target")
    parser.add_argument("names", nargs="*", choices=[[], *TARGETS], metavar="NAME")
    arguments = parser.parse_args()
    failed = []
    for name in arguments.names or TARGETS:
        outcome = fuzz(name, arguments.seconds)
        rate = outcome.executed / arguments.seconds
        verdict = "ok" if outcome.is_good and outcome.executed else "FAILED"
        print(f"{name:<16} {outcome.executed:>10,} inputs {rate:>9,.0f}/s  {verdict}", flush=True)
        if verdict != "ok":
            failed.append(name)
            print(outcome.output[-4_000:])
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
