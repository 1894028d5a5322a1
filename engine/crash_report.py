"""What is kept of a dead engine: sizes, counts and parameters. No text, and no token ids unless
that is allowed: whoever operates a server need not read what its users write.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from engine.messages import EngineConfig, EngineStats, ModelInfo, StepBegins
from engine.open_requests import OpenRequest

logger = logging.getLogger(__name__)

MAX_REPORTS = 20
DISTRIBUTIONS = ("gpt2-server", "torch", "numpy", "msgspec")
ID_LIST = re.compile(r"\d+(?:,\s*\d+)+")
"""What an error's message would show of token ids."""


@dataclass(frozen=True, slots=True)
class LastWords:
    """What a parent knows of its engine process when that is gone.

    ``returncode`` is negative for a signal, and None for one that still has to be killed.
    """

    reason: str
    returncode: int | None
    uptime_s: float
    was_ready: bool
    step: StepBegins | None
    printed: str


class RequestReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request that ran in the last step. Ids are there only where they are allowed."""

    request_id: int
    num_prompt_ids: int
    num_emitted_ids: int
    num_blames: int
    num_trials: int
    params: dict[str, Any]
    task: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    emitted_ids: tuple[int, ...] | None = None


class CrashReport(msgspec.Struct, frozen=True):
    """One file. ``output`` is the end of what the process printed."""

    time: str
    reason: str
    exit_code: int | None
    signal: int | None
    uptime_s: float
    was_ready: bool
    num_open_requests: int
    last_step: StepBegins | None
    stats: EngineStats
    requests: tuple[RequestReport, ...]
    config: EngineConfig
    model: ModelInfo | None
    versions: dict[str, str]
    output: str


@dataclass(frozen=True)
class CrashFolder:
    """Where reports go: the last ``max_reports`` of them, each written whole or not at all."""

    path: Path
    has_ids: bool = False
    max_reports: int = MAX_REPORTS

    async def report(
        self,
        died: LastWords,
        config: EngineConfig,
        model: ModelInfo | None,
        stats: EngineStats,
        open_requests: Iterable[OpenRequest],
    ) -> None:
        """Write one; a folder that cannot be written costs a line in the log and no more."""
        written = self._describe(died, config, model, stats, list(open_requests))
        try:
            path = await asyncio.to_thread(self.write, written)
        except OSError as error:
            logger.warning("no crash report could be written to %s: %s", self.path, error)
        else:
            logger.warning("what is known of the engine's death is in %s", path)

    def write(self, report: CrashReport) -> Path:
        """Put it under its final name, then let the oldest go. Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        name = f"crash-{report.time.replace(':', '')}.json"
        handle, temporary = tempfile.mkstemp(prefix=".crash-", dir=self.path)  # for the owner alone
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(report), indent=2))
            Path(temporary).replace(self.path / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        for old in sorted(self.path.glob("crash-*.json"))[: -self.max_reports]:
            old.unlink(missing_ok=True)
        return self.path / name

    def _describe(
        self,
        died: LastWords,
        config: EngineConfig,
        model: ModelInfo | None,
        stats: EngineStats,
        open_requests: list[OpenRequest],
    ) -> CrashReport:
        code = died.returncode
        running = set(died.step.request_ids if died.step is not None else ())
        concerned = (entry for entry in open_requests if entry.request.request_id in running)
        return CrashReport(
            time=datetime.now(UTC).isoformat(timespec="microseconds"),
            reason=died.reason,
            exit_code=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            uptime_s=round(died.uptime_s, 3),
            was_ready=died.was_ready,
            num_open_requests=len(open_requests),
            last_step=died.step,
            stats=stats,
            requests=tuple(self._describe_request(entry) for entry in concerned),
            config=config,
            model=model,
            versions=versions(),
            output=died.printed if self.has_ids else ID_LIST.sub("...", died.printed),
        )

    def _describe_request(self, entry: OpenRequest) -> RequestReport:
        request = entry.request
        params: dict[str, Any] = msgspec.to_builtins(request.params)
        if not self.has_ids:
            params = {
                name: len(value) if isinstance(value, list | tuple) else value
                for name, value in params.items()
            }
        return RequestReport(
            request_id=request.request_id,
            num_prompt_ids=len(request.prompt_ids),
            num_emitted_ids=len(entry.emitted_ids),
            num_blames=entry.num_blames,
            num_trials=entry.num_trials,
            params=params,
            task=request.task.name if request.task is not None else None,
            prompt_ids=request.prompt_ids if self.has_ids else None,
            emitted_ids=tuple(entry.emitted_ids) if self.has_ids else None,
        )


def versions() -> dict[str, str]:
    """Of what computes, without importing any of it."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
