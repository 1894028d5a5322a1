"""A ``gpt2-server serve`` of our own: started, watched from outside, and stopped."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.client import Address, HttpError, get
from bench.trouble.counts import Counts
from bench.trouble.promise import SETTLE_S

START_S = 120.0
STOP_S = 45.0
POLL_S = 0.05
MB = 1e6


class ServerBroken(Exception):
    """It did not start, or did not stop; the message ends with what it printed last."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Of the API process and of the engine: memory of their own in MB, and open descriptors."""

    at_s: float
    api_mb: float
    engine_mb: float
    api_files: int
    engine_files: int


@dataclass(frozen=True, slots=True)
class LiveServer:
    """Where it answers, its process, and the file it prints to."""

    address: Address
    process: asyncio.subprocess.Process
    log: Path

    @property
    def is_alive(self) -> bool:
        """The API process has not ended."""
        return self.process.returncode is None

    @property
    def engines(self) -> list[psutil.Process]:
        """The engine processes that it has: one, or for a moment none."""
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
            return [child for child in children if is_engine(child)]
        return []

    async def engine(self, other_than: int | None = None) -> psutil.Process:
        """The engine process, once there is one. Raises ServerBroken."""
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s and self.is_alive:
            for engine in self.engines:
                if engine.pid != other_than:
                    return engine
            await asyncio.sleep(POLL_S)
        raise ServerBroken(f"there is no engine process: {self.last_lines()}")

    async def counts(self) -> Counts:
        """Its counters now. Raises HttpError, OSError."""
        return Counts.parse((await get(self.address, "/metrics")).decode())

    async def settled(self, limit_s: float = SETTLE_S) -> Counts:
        """Its counters, once nothing runs or waits and the engine is up, or after the limit."""
        deadline_s = time.monotonic() + limit_s
        while True:
            counts = await self.counts()
            names = ("requests_running", "requests_waiting", "slots_in_use")
            is_quiet = not any(counts.total(name) for name in names)
            if (is_quiet and counts.total("slots_free") + counts.total("slots_warm")) or (
                time.monotonic() > deadline_s
            ):
                return counts
            await asyncio.sleep(POLL_S)

    async def ready(self) -> None:
        """Wait until a request would start at once. Raises ServerBroken."""
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s and self.is_alive:
            with suppress(HttpError, OSError, EOFError):
                await get(self.address, "/ready")
                return
            await asyncio.sleep(POLL_S)
        raise ServerBroken(f"it is not ready: {self.last_lines()}")

    async def usage(self) -> Usage:
        """What both processes hold. Raises ServerBroken, psutil.Error."""
        api, engine = psutil.Process(self.process.pid), await self.engine()
        return Usage(
            time.monotonic(),
            api.memory_full_info().uss / MB,
            engine.memory_full_info().uss / MB,
            api.num_fds(),
            engine.num_fds(),
        )

    def last_lines(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-2_000:]


def is_engine(process: psutil.Process) -> bool:
    """Whether a process is an engine; False for one that has just gone."""
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE and "engine.process" in process.cmdline()
    return False


@asynccontextmanager
async def serving(*options: str) -> AsyncIterator[LiveServer]:
    """The bundled checkpoint on a free port of this machine, until the block ends.

    Variables of the environment that are settings are left out, and one core is left to the
    clients. Raises ServerBroken.
    """
    command = Path(sys.executable).with_name("gpt2-server")
    num_threads = max((psutil.cpu_count(logical=False) or 1) - 1, 1)
    environ = {k: v for k, v in os.environ.items() if not k.startswith("GPT2_SERVER_")}
    with tempfile.TemporaryDirectory(prefix="gpt2-trouble-") as folder:
        log = Path(folder) / "serve.log"
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *(str(command), "serve", "--port", "0", "--threads", str(num_threads), *options),
                env={**environ, "PYTHONUNBUFFERED": "1"},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        try:
            yield LiveServer(await _address(process, log), process, log)
        finally:
            await _stop(process)


async def _address(process: asyncio.subprocess.Process, log: Path) -> Address:
    """Printed once requests are answered. Raises ServerBroken."""
    deadline_s = time.monotonic() + START_S
    while process.returncode is None and time.monotonic() < deadline_s:
        if found := re.search(r"^address\s+(http://\S+)$", log.read_text(), re.MULTILINE):
            return Address.of(found[1])
        await asyncio.sleep(POLL_S)
    raise ServerBroken(f"it did not start: {log.read_text(errors='replace')[-2_000:]}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
