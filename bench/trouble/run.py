"""Every trouble in turn, one table of what was promised and what was found."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from bench.client import HttpError
from bench.machine import circumstances
from bench.report import json_line
from bench.trouble.engine_faults import engine_faults
from bench.trouble.hostile import hostile
from bench.trouble.leaving import leaving
from bench.trouble.live import ServerBroken
from bench.trouble.overload import overload
from bench.trouble.promise import Extent, Finding
from bench.trouble.slow_readers import slow_readers
from bench.trouble.soak import soak

Say = Callable[[str], None]


class Result(Protocol):
    """What one trouble brought: a frozen dataclass."""

    def findings(self) -> list[Finding]:
        """What was promised for it, and whether it was kept."""


TROUBLES: Mapping[str, Callable[[Extent], Awaitable[Any]]] = {
    "overload": overload,
    "leaving": leaving,
    "slow-readers": slow_readers,
    "engine-faults": engine_faults,
    "hostile": hostile,
    "soak": soak,
}


@dataclass(frozen=True, slots=True)
class Report:
    """One trouble: its promises, and the figures they were judged by."""

    trouble: str
    findings: tuple[Finding, ...]
    figures: dict[str, Any]


def run(names: Sequence[str], extent: Extent, path: Path | None, say: Say) -> bool:
    """Make the troubles, print the table; whether every promise was kept.

    The JSON goes to ``path``, if there is one. Raises KeyError for an unknown name.
    """
    reports = []
    for name in names or list(TROUBLES):
        say(f"{name} ...")
        reports.append(asyncio.run(make(name, TROUBLES[name], extent)))
    for line in lines(reports):
        print(line)
    values = {
        **circumstances("trouble", 1, {}),
        "extent": asdict(extent),
        "reports": [asdict(report) for report in reports],
    }
    if path is not None:
        path.write_text(json.dumps(json.loads(json_line(values)), indent=2) + "\n")
    return all(finding.is_kept for report in reports for finding in report.findings)


async def make(name: str, trouble: Callable[[Extent], Awaitable[Result]], extent: Extent) -> Report:
    """One trouble. A server that does not live through it is a promise broken, and no crash."""
    try:
        result: Any = await trouble(extent)
    except (ServerBroken, HttpError, OSError, EOFError, RuntimeError, psutil.Error) as error:
        found = f"{type(error).__name__}: {error}"
        return Report(name, (Finding("the server lives through it", found, False),), {})
    return Report(name, tuple(result.findings()), asdict(result))


def lines(reports: Sequence[Report]) -> Iterator[str]:
    """The table for people: words, so every column is to the left, the long one last."""
    rows = [
        (report.trouble, "ok" if finding.is_kept else "BROKEN", finding.promise, finding.measured)
        for report in reports
        for finding in report.findings
    ]
    shown = [("trouble", "", "promised", "measured"), *rows]
    widths = [max(len(row[column]) for row in shown) for column in range(3)] + [0]
    for row in shown:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
    yield f"{len(rows)} promises, {sum(row[1] != 'ok' for row in rows)} broken"
