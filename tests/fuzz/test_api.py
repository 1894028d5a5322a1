"""Schemathesis against a live server: good and bad requests, made of its own /openapi.json.

Every phase, positive and negative, NUL bytes included, over real HTTP. Run by ``make fuzz``;
FUZZ_EXAMPLES is the number of requests of each route in a phase.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.live_server import ROOT, live_server

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(3_600)]

COMMAND = Path(sys.executable).with_name("schemathesis")
CONFIG = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "750"))
SERVER = ("--max-context", "32", "--slots", "8", "--threads", "1")
"""Small, so that every answer is quick whatever max_tokens says."""

# That good data is taken cannot be asked: no schema says what fits the context. Of server errors
# tests/fuzz/hooks.py knows which are promised.
EXCLUDED = "positive_data_acceptance,not_a_server_error"
COUNT = re.compile(r"(\d+) generated, (\d+) passed")


def test_no_request_makes_an_answer_that_is_not_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2_SERVER_MAX_CHOICES", "8")
    with live_server(None, *SERVER) as server:
        done = subprocess.run(
            [
                *(str(COMMAND), "--config-file", str(CONFIG)),
                *("run", f"{server.url}/openapi.json", "--no-color"),
                *("--phases", "examples,coverage,fuzzing,stateful", "--mode", "all"),
                *("--max-examples", str(EXAMPLES), "--generation-allow-x00", "true"),
                *("--checks", "all", "--exclude-checks", EXCLUDED, "--continue-on-failure"),
                *("--no-shrink", "--request-timeout", "30", "--generation-database", "none"),
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert httpx.get(f"{server.url}/ready").status_code == 200
        assert server.process.poll() is None
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    counts = COUNT.search(done.stdout)
    assert counts is not None, done.stdout[-2_000:]
    print(f"{counts[1]} requests, {counts[2]} passed")
    assert counts[1] == counts[2]
    assert int(counts[1]) >= 10 * EXAMPLES
