"""A real ``gpt2-server serve`` in a process of its own, on a free port."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(sys.executable).with_name("gpt2-server")
START_S = 120


@dataclass(frozen=True, slots=True)
class LiveServer:
    """Where it answers, and its processes."""

    url: str
    process: subprocess.Popen[str]

    @property
    def engine(self) -> psutil.Process:
        """The engine process, the one child that runs it."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(child for child in children if "engine.process" in child.cmdline())


@contextmanager
def live_server(checkpoint: Path | None = None, *options: str) -> Iterator[LiveServer]:
    """Serve ``checkpoint``, the bundled one by default, until the block ends."""
    command = [str(COMMAND), "serve", "--port", "0", *options]
    process = subprocess.Popen(
        [*command, *([str(checkpoint)] if checkpoint else [])],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield LiveServer(_address(process), process)
    finally:
        process.terminate()
        process.communicate(timeout=START_S)


def _address(process: subprocess.Popen[str]) -> str:
    """The address that start-up prints once requests are answered."""
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        if found := re.search(r"http://\S+", line):
            return found[0]
    raise AssertionError(f"the server ended without an address: {printed}")
