"""Where and with what a run was made: the part of its JSON line that all benches share."""

from __future__ import annotations

import datetime
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def processor() -> str:
    """The processor's name, as the system tells it."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def circumstances(bench: str, num_threads: int, versions: Mapping[str, str]) -> dict[str, Any]:
    """Date, machine, threads, versions, and the command as it was typed."""
    return {
        "bench": bench,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": processor(),
        "num_threads": num_threads,
        "versions": {"python": platform.python_version(), **versions},
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
