"""Names on the hub with the real commands, against a hub on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.fake_hub import FakeHub, Fault, fake_hub
from tests.support.live_server import COMMAND, ROOT, live_server
from tests.support.small_hf import WEIGHTS, small_files
from weights.checkpoint import open_checkpoint

BRING = [sys.executable, "-m", "server.commands.bring"]
NAME = "owner/some-gpt2"
MIB = 2**20


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """What the environment names; caches are empty, and telemetry is as it is by default."""
    with fake_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        for variable in ("HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_DISABLE_TELEMETRY"):
            monkeypatch.delenv(variable, raising=False)
        yield hub
        hub.released.set()


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    whole = {**os.environ, **environ}
    return subprocess.run(
        arguments, cwd=ROOT, env=whole, capture_output=True, text=True, check=False
    )


def until(condition: Callable[[], bool], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def size(path: Path) -> int:
    return path.stat().st_size


def test_serve_by_name(hub: FakeHub, tmp_path: Path) -> None:
    commit = hub.add(NAME, small_files())
    with live_server(Path(NAME), "--threads", "1", "--slots", "2") as server:
        for model in (NAME, "some-gpt2"):
            body = {"model": model, "prompt": "the cat", "max_tokens": 2, "temperature": 0}
            answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()
            assert answer["model"] == NAME
            assert answer["usage"]["completion_tokens"] == 2
        (model,) = httpx.get(f"{server.url}/v1/models").json()["data"]
        assert (model["id"], model["aliases"]) == (NAME, ["some-gpt2"])
        assert model["source"] == f"{NAME}@{commit}"
        assert httpx.get(f"{server.url}/v1/models/{NAME}").json() == model
        assert "torch" not in Path(f"/proc/{server.process.pid}/maps").read_text()
    agents = {asked.agent for asked in hub.asked}
    assert all("torch" not in agent and "agent/" not in agent for agent in agents)
    assert {asked.path.split("/")[1] for asked in hub.asked} == {"api", "owner", "lfs"}
    hub.asked.clear()
    told = run(*BRING, NAME, HF_HUB_OFFLINE="1")
    assert str(tmp_path / "xdg") in told.stdout
    assert told.stderr == f"HF_HUB_OFFLINE is set: {NAME} is taken as last seen, commit {commit}\n"
    assert hub.asked == []


def test_a_name_that_is_nowhere(hub: FakeHub) -> None:
    told = run(str(COMMAND), "serve", "nobody/nothing", "--port", "0")
    assert told.returncode == 2
    assert told.stderr == (
        f"Error: nobody/nothing does not exist, neither here nor at {hub.url}; if it is private "
        f"there, set HF_TOKEN to a token that may read it\n"
    )
    assert told.stdout == ""


def test_interrupted_then_two_at_the_same_time(hub: FakeHub, tmp_path: Path) -> None:
    """The server is stopped in the middle of a download, which two others then go on with."""
    files = small_files(num_channels=512)
    commit = hub.add(NAME, files)
    hub.faults = [Fault("/lfs/", cut_at=15 * MIB, stall=hub.released, times=1)]
    command = [str(COMMAND), "serve", NAME, "--port", "0"]
    server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    # huggingface_hub writes pieces of 10 MiB.
    until(lambda: sum(map(size, (tmp_path / "hf").rglob("*.incomplete"))) == 10 * MIB)
    (child,) = psutil.Process(server.pid).children()
    server.send_signal(signal.SIGTERM)
    told = server.communicate(timeout=60)[1]
    assert server.returncode == 2
    assert told.splitlines()[-1].startswith("Error: interrupted: the same command goes on")
    assert not child.is_running()
    hub.asked.clear()
    both = [
        subprocess.Popen([*BRING, NAME], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    paths = {process.communicate(timeout=100)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(paths) == 1
    starts = [asked.start for asked in hub.asked if asked.path.startswith("/lfs/")]
    assert starts == [10 * MIB]
    (path,) = (Path(line.split('"')[3]) for line in paths)
    assert path.parts[-2:] == (commit, "some-gpt2")
    assert open_checkpoint(path).source["sha256"][WEIGHTS] == sha256(files[WEIGHTS]).hexdigest()
    assert [entry.name for entry in path.parent.iterdir()] == ["some-gpt2"]
