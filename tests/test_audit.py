"""``make check`` fails for a known vulnerability, and for nothing else that pip-audit says."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.live_server import ROOT

Verdict = Callable[[str, str], tuple[int, list[str]]]


@pytest.fixture
def verdict() -> Verdict:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Verdict = module.verdict
    return found


def report(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


CLEAN = {"name": "a", "version": "1", "vulns": []}
UNKNOWN = {"name": "b", "skip_reason": "Dependency not found"}
BAD = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}


def test_a_known_vulnerability_fails(verdict: Verdict) -> None:
    status, lines = verdict(report(CLEAN, UNKNOWN, BAD), "Found 1 known vulnerability")
    assert status == 1
    assert lines[0] == "pip-audit: c 2 has CVE-1, mended in 3"


def test_none_passes_and_says_how_many_were_looked_at(verdict: Verdict) -> None:
    told = "pip-audit: 0 found in 1 packages; 1 are not known"
    assert verdict(report(CLEAN, UNKNOWN), "") == (0, [told])


@pytest.mark.parametrize(
    ("written", "complaint", "told"),
    [
        ("", "WARNING: x\nERROR: Connection refused\n", "ERROR: Connection refused"),
        ("", "", "it wrote no report"),
        ("null", "", "it wrote no report"),
        (report(UNKNOWN), "", "the service knows none of the 1 packages"),
    ],
)
def test_what_could_not_be_checked_is_said_and_passes(
    verdict: Verdict, written: str, complaint: str, told: str
) -> None:
    expected = f"pip-audit: skipped, nothing was checked: {told}"
    assert verdict(written, complaint) == (0, [expected])
