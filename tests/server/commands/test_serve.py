"""The command in process with the fake engine; and once for real, as a user starts it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from engine.errors import EngineFailed
from engine.messages import TaskInfo
from server.cli import main
from server.commands.serve import Service, describe, listen
from server.settings import Settings, bundled_checkpoint
from tests.server.fake_engine import INFO, FakeEngine

COMMAND = [sys.executable, "-c", "from server.cli import main; main()"]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[FakeEngine], Service]:
    """A service around a fake engine, on a free port."""

    def start(engine: FakeEngine) -> Service:
        monkeypatch.setattr("engine.client.EngineClient", lambda *_, **__: engine)
        settings = Settings(checkpoint=tmp_path, port=0)
        return Service(settings, listen(settings.host, settings.port))

    return start


async def test_a_refused_checkpoint_is_every_problem_and_exit_code_2(
    start: Callable[[FakeEngine], Service], capsys: pytest.CaptureFixture[str]
) -> None:
    engine = FakeEngine(failure=EngineFailed(["wte.weight is missing", "h.0 is too small"]))
    assert await start(engine).run() == 2
    told = capsys.readouterr()
    assert told.err == "Error: wte.weight is missing\nError: h.0 is too small\n"
    assert told.out == ""


async def test_an_engine_that_is_lost_for_good_is_exit_code_3(
    start: Callable[[FakeEngine], Service], capsys: pytest.CaptureFixture[str]
) -> None:
    engine = FakeEngine()
    running = asyncio.create_task(start(engine).run())
    told = ""
    while "address" not in told:
        await asyncio.sleep(0.01)
        told += capsys.readouterr().out
    for listener in engine.on_failure:
        listener(EngineFailed(["it died too often"]))
    assert await running == 3
    assert capsys.readouterr().err == "Error: it died too often\n"


def test_four_lines_say_what_was_started() -> None:
    settings = Settings(checkpoint=Path("some/gpt2"))
    info = msgspec.structs.replace(INFO, num_parameters=124_439_808, slot_bytes=37_748_736)
    lines = describe(settings, info, ("::1", 8000, 0, 0))
    assert lines == [
        "model    gpt2, 124.4 M parameters, context 64, from some/gpt2",
        "device   cpu, 1 threads, float32, torch kernels",
        "slots    4 of 37.7 MB, float32",
        "address  http://[::1]:8000",
    ]


def test_each_task_has_a_line() -> None:
    made: dict[str, Any] = {
        "max_len": 64,
        "weights_hash": "h",
        "fingerprint": "fp",
        "source": "somewhere",
    }
    tasks = (
        TaskInfo(
            name="mood",
            config={"form": "classification"},
            first_special_id=300,
            train="head",
            **made,
        ),
        TaskInfo(
            name="nli", config={"form": "entailment"}, first_special_id=303, train="full", **made
        ),
    )
    info = msgspec.structs.replace(INFO, tasks=tasks)
    lines = describe(Settings(checkpoint=Path("some/gpt2")), info, ("::1", 8000, 0, 0))
    assert lines[3:5] == [
        "task     mood, classification, from somewhere",
        "task     nli, entailment on a decoder of its own, from somewhere",
    ]


def test_a_taken_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = CliRunner().invoke(main, ["serve", "--port", str(port)])
    assert told.exit_code == 2
    assert told.output == f"Error: cannot listen on 127.0.0.1 port {port}: Address already in use\n"


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2_SERVER_PROT", "1")
    told = CliRunner().invoke(main, ["serve", "--port", "0"])
    assert told.exit_code == 2
    assert "did you mean GPT2_SERVER_PORT?" in told.output


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys, json\nprint(json.dumps(list(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return set(json.loads(told.stdout))


def test_the_api_process_imports_no_torch() -> None:
    loaded = modules_after(
        "import engine.client, server.app, server.commands.serve, uvicorn, uvloop, httptools"
    )
    assert {"torch", "weights", "training", "transformers"} & loaded == set()


def test_the_engine_is_started_before_the_slow_imports() -> None:
    """They are a third of the API process's start; the engine process starts meanwhile."""
    loaded = modules_after("import server.commands.serve, server.settings, engine.client")
    assert {"fastapi", "starlette", "uvicorn", "tiktoken", "prometheus_client"} & loaded == set()


def test_from_start_to_sigterm() -> None:
    """The real engine and the bundled checkpoint: lines, an answer, exit code 0."""
    if not (bundled_checkpoint() / "config.json").exists():
        pytest.skip("no checkpoint is bundled")
    with subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", "--slots", "2", "--threads", "1"],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            lines = [server.stdout.readline().split() for _ in range(5)]
            assert [line[0] for line in lines] == ["model", "device", "slots", "task", "address"]
            body = json.dumps({"prompt": "Once", "max_tokens": 2}).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{lines[4][1]}/v1/completions", body, headers)
            with urllib.request.urlopen(request) as answer:
                assert json.load(answer)["usage"]["completion_tokens"] == 2
            assert "torch" not in Path(f"/proc/{server.pid}/maps").read_text()
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=20) == 0
        finally:
            server.kill()
