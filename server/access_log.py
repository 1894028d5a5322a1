"""One line a request: what was asked for, how it ended, and what it took. Never any text."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import Scope

from engine.request import RequestTimes

logger = logging.getLogger("server.access")

RECORD = "gpt2_server.access"
"""Where a request's scope has its AccessRecord."""

PROBES = frozenset({"/health", "/ready", "/metrics"})
"""Asked every few seconds by those who watch; where all is well, that is told at level debug."""


class Finished(Protocol):
    """What a choice, or another reader of the engine's outputs, knows once it has ended."""

    times: RequestTimes | None
    outcome: str | None


@dataclass(frozen=True, slots=True)
class Work:
    """What the engine did for one request. Seconds; of several choices the longest time counts."""

    num_prompt_tokens: int
    num_completion_tokens: int
    num_cached_tokens: int
    finished: Sequence[Finished]
    engine_ids: Sequence[int]

    def fields(self) -> dict[str, Any]:
        """For the line; times that the engine did not tell are left out."""
        told: dict[str, Any] = {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_completion_tokens,
            "cached_tokens": self.num_cached_tokens,
            "choices": len(self.finished),
            "finish_reasons": dict(Counter(one.outcome or "abort" for one in self.finished)),
            "engine_ids": list(self.engine_ids),
        }
        times = [one.times for one in self.finished if one.times is not None]
        if times:
            told["queue_s"] = round(max(one.queue_s for one in times), 6)
            told["prefill_s"] = round(max(one.prefill_s for one in times), 6)
            told["decode_s"] = round(max(one.decode_s for one in times), 6)
        return told


@dataclass(slots=True)
class AccessRecord:
    """What is known of a request so far; its answer fills it in."""

    method: str
    error_code: str | None = None
    has_left: bool = False
    work: Work | None = None

    def write(self, route: str, status: int | None, duration_s: float) -> None:
        """The line. ``status`` is None where nothing was answered."""
        is_well = status is not None and status < 400
        level = logging.DEBUG if is_well and route in PROBES else logging.INFO
        if logger.isEnabledFor(level):
            logger.log(level, "request", extra=self._fields(route, status, duration_s))

    def _fields(self, route: str, status: int | None, duration_s: float) -> Mapping[str, Any]:
        told: dict[str, Any] = {"method": self.method, "route": route, "status": status}
        told["duration_s"] = round(duration_s, 6)
        if self.error_code is not None:
            told["error_code"] = self.error_code
        if self.has_left or status == 499:
            told["client_left"] = True
        if self.work is not None:
            told |= self.work.fields()
        return told


def record_of(scope: Scope) -> AccessRecord:
    """The record of a request; one that nobody reads, where nothing is logged."""
    record: AccessRecord = scope.setdefault(RECORD, AccessRecord(scope.get("method", "")))
    return record
