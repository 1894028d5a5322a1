"""The bench as a whole: its table, its JSON, its verdict; and one trouble made for real, small."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from bench.trouble import live, run
from bench.trouble.leaving import Leaving, leaving
from bench.trouble.live import ServerBroken, serving
from bench.trouble.promise import Extent, Finding
from server.commands.bench import command


def made(*, is_kept: bool) -> run.Report:
    return run.Report("leaving", (Finding("none lost", "0 lost", is_kept),), {"a": 1})


def test_the_table_says_what_was_promised_and_what_was_found() -> None:
    found = list(run.lines([made(is_kept=True), made(is_kept=False)]))
    assert found == [
        "trouble          promised   measured",
        "leaving  ok      none lost  0 lost",
        "leaving  BROKEN  none lost  0 lost",
        "2 promises, 1 broken",
    ]


@pytest.mark.parametrize(("found", "exit_code"), [("", 0), ("500", 1)])
def test_a_broken_promise_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: str, exit_code: int
) -> None:
    async def trouble(extent: Extent) -> Leaving:
        assert (extent.num_leaving, extent.soak_s) == (200, 120)
        return Leaving(2, 2, 0, {found: 1} if found else {}, 2, 2, 2, 2, True, "8 of 8")

    monkeypatch.setattr(run, "TROUBLES", {"leaving": trouble})
    path = tmp_path / "trouble.json"
    options = ["trouble", "--short", "--soak-minutes", "2", "--json", str(path)]
    result = CliRunner().invoke(command, options)
    assert result.exit_code == exit_code, result.output
    values = json.loads(path.read_text())
    assert values["bench"] == "trouble"
    assert values["reports"][0]["figures"]["num_clients"] == 2
    assert [one["is_kept"] for one in values["reports"][0]["findings"]] == [True, True, not found]


def test_a_server_that_dies_of_it_is_a_broken_promise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def trouble(_extent: Extent) -> Leaving:
        raise ServerBroken("it is gone")

    monkeypatch.setattr(run, "TROUBLES", {"leaving": trouble})
    assert not run.run((), Extent(), None, lambda _text: None)
    assert "ServerBroken: it is gone" in capsys.readouterr().out


def test_an_unknown_trouble_is_refused_by_name() -> None:
    result = CliRunner().invoke(command, ["trouble", "flood"])
    assert result.exit_code == 2
    assert "not a trouble: flood; there are overload, leaving" in result.output


async def test_a_server_that_does_not_start_is_told_with_its_own_words() -> None:
    with pytest.raises(ServerBroken, match=r"(?s)did not start.*no-such-option"):
        async with serving("--no-such-option"):
            pass


async def test_clients_leave_a_real_server_and_it_stops_after_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Small: what is under test is the bench, not the server."""
    pids: list[int] = []
    engine = live.LiveServer.settled

    async def noting(self: live.LiveServer, limit_s: float = 10.0) -> object:
        pids.extend([self.process.pid, (await self.engine()).pid])
        usage = await self.usage()
        assert usage.api_mb > 10
        assert usage.engine_mb > 10
        assert min(usage.api_files, usage.engine_files) > 3
        return await engine(self, limit_s)

    monkeypatch.setattr(live.LiveServer, "settled", noting)
    result = await leaving(Extent(num_leaving=12))
    assert all(finding.is_kept for finding in result.findings()), result
    assert result.num_clients >= 8
    assert len(pids) == 2
    assert not any(map(psutil.pid_exists, pids))
