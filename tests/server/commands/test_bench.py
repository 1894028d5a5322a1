"""gpt2-server bench, where what it needs is not there."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from server.commands.bench import command


def test_an_installation_without_the_bench_says_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "bench"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "bench", None)
    found = CliRunner().invoke(command, ["serving", "--url", "http://127.0.0.1:1"])
    assert found.exit_code == 2
    assert "not part of this installation: run it from the project's folder" in found.output
