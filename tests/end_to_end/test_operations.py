"""Trouble with real processes: engines stopped and killed, servers ended, replaced and killed."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.fake_hub import Fault, fake_hub
from tests.support.live_server import COMMAND, ROOT, LiveServer, live_server
from tests.support.small_hf import WEIGHTS, small_files

pytestmark = pytest.mark.timeout(300)  # several servers start, maybe on a busy machine

SMALL = ("--threads", "1", "--slots", "4", "--dtype", "float32")
EXIT_S = 60
PAUSE_S = 0.01
"""Between two requests of a client, so that servers get a processor to start on."""


def checkpoint(folder: Path, seed: int = 0) -> Path:
    folder.mkdir()
    for name, content in small_files(seed).items():
        (folder / name).write_bytes(content)
    return folder


def body(seed: int) -> dict[str, Any]:
    return {"prompt": [5, 6 + seed % 4], "max_tokens": 12, "seed": seed, "ignore_eos": True}


def complete(client: httpx.Client, url: str, seed: int) -> dict[str, Any]:
    answer = client.post(f"{url}/v1/completions", json={**body(seed), "return_token_ids": True})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def until(condition: Callable[[], bool], limit_s: float = EXIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Load:
    """Clients that ask again and again, half of them over new connections each time."""

    def __init__(self, url: str, num_clients: int = 4) -> None:
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.problems: list[str] = []
        self._url = url
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(num_clients)
        ]

    def _ask(self, number: int) -> None:
        headers = {"Connection": "close"} if number % 2 else {}
        client = httpx.Client(timeout=60, headers=headers)
        seed = number * 1_000
        while not self._is_over.wait(PAUSE_S):
            seed += 1
            try:
                self.answers.append((seed, complete(client, self._url, seed)))
            except (httpx.HTTPError, AssertionError) as error:
                self.problems.append(repr(error))
        client.close()

    def more(self, count: int) -> None:
        """Wait for so many further answers."""
        wanted = len(self.answers) + count
        until(lambda: len(self.answers) >= wanted or bool(self.problems))
        assert self.problems == []

    def fingerprints(self) -> list[str]:
        return [answer["system_fingerprint"] for _, answer in self.answers]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(timeout=60)


@contextmanager
def undisturbed(load: Load) -> Iterator[None]:
    """Whatever happens meanwhile, each answer is the one that its seed always gets."""
    with load:
        yield
    assert load.problems == []
    texts: dict[int, Any] = {}
    with httpx.Client(timeout=60) as client:
        for seed, answer in load.answers[:: max(1, len(load.answers) // 20)]:
            texts[seed] = complete(client, load._url, seed)["choices"][0]["token_ids"]
            assert answer["choices"][0]["token_ids"] == texts[seed]
    assert len(texts) > 5


def post_in_thread(url: str, answers: list[httpx.Response], **more: Any) -> threading.Thread:
    thread = threading.Thread(
        target=lambda: answers.append(httpx.post(url, json={**body(1), **more}, timeout=60))
    )
    thread.start()
    return thread


def num_admitted(server: LiveServer) -> float:
    rows = httpx.get(f"{server.url}/metrics").text.splitlines()
    found = [row for row in rows if row.startswith("gpt2_request_prompt_tokens_count")]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


def test_engines_are_stopped_and_killed_until_restarts_are_used_up(tmp_path: Path) -> None:
    """Nobody notices while there are any: /health answers, /ready tells, reports are there."""
    options = ("--silence-s", "1", "--max-restarts", "2", "--crash-dir", str(tmp_path / "log"))
    with live_server(checkpoint(tmp_path / "gpt"), *SMALL, *options) as server:
        load = Load(server.url)
        with undisturbed(load), httpx.Client(timeout=60) as client:
            for number in (signal.SIGSTOP, signal.SIGKILL):
                load.more(10)
                engine = server.engine
                engine.send_signal(number)
                assert client.get(f"{server.url}/health").status_code == 200
                until(lambda: client.get(f"{server.url}/ready").status_code == 503)
                until(lambda: client.get(f"{server.url}/ready").status_code == 200)
                assert client.get(f"{server.url}/health").status_code == 200
                assert not engine.is_running()
            load.more(10)
        told = [json.loads(path.read_text()) for path in sorted((tmp_path / "log").iterdir())]
        assert "no sign of life" in told[0]["reason"]
        assert (told[1]["reason"], told[1]["signal"]) == ("was killed by SIGKILL", 9)
        one_error_each_and_exit_code_3(server)


def one_error_each_and_exit_code_3(server: LiveServer) -> None:
    """Of three requests that the engine has, or would have, when it dies once more."""
    answers: list[httpx.Response] = []
    num_before = num_admitted(server)
    server.engine.send_signal(signal.SIGSTOP)  # so that they stay open
    url = f"{server.url}/v1/completions"
    threads = [post_in_thread(url, answers) for _ in range(3)]
    until(lambda: num_admitted(server) == num_before + 3)
    assert httpx.get(f"{server.url}/health").status_code == 200
    server.engine.kill()
    assert server.process.wait(timeout=EXIT_S) == 3
    for thread in threads:
        thread.join(timeout=EXIT_S)
    assert [answer.status_code for answer in answers] == [503] * 3
    errors = [answer.json()["error"] for answer in answers]
    assert all("died too often" in error["message"] for error in errors)


def test_a_rolling_restart_loses_no_request(tmp_path: Path) -> None:
    """Two servers on one port: the next one joins when it is loaded, the first one leaves.

    One that cannot be loaded never joins.
    """
    first = checkpoint(tmp_path / "first")
    broken = checkpoint(tmp_path / "broken", seed=1)
    (broken / WEIGHTS).write_bytes((broken / WEIGHTS).read_bytes()[:-100])
    with live_server(first, *SMALL, "--reuse-port") as old, Load(old.url) as load:
        shared = (*SMALL, "--reuse-port", "--port", old.url.rpartition(":")[2])
        load.more(20)
        refused = subprocess.run(
            [str(COMMAND), "serve", *shared, str(broken)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert refused.returncode == 2
        assert WEIGHTS in refused.stderr
        assert refused.stdout == ""
        load.more(20)
        assert len(set(load.fingerprints())) == 1
        drain = ("--drain-s", "60", "--shutdown-s", "60")
        with live_server(checkpoint(tmp_path / "second", seed=1), *shared, *drain) as new:
            until(lambda: len(set(load.fingerprints())) == 2 or bool(load.problems))
            old.process.terminate()
            assert old.process.wait(timeout=EXIT_S) == 0
            num_before = len(load.answers)
            load.more(40)
            assert len(set(load.fingerprints()[num_before + len(load._threads) :])) == 1
            load.__exit__()
            assert load.problems == []
            a_second_signal_means_now(new)


def a_second_signal_means_now(server: LiveServer) -> None:
    """The first one is told to who asks for it, and by every answer."""
    with httpx.Client(timeout=60) as client:
        assert "connection" not in client.get(f"{server.url}/ready").headers
        server.process.send_signal(signal.SIGTERM)
        until(lambda: client.get(f"{server.url}/ready").status_code == 503)
        assert client.get(f"{server.url}/health").headers["connection"] == "close"
        complete(client, server.url, 1)
    answers: list[httpx.Response] = []
    num_before = num_admitted(server)
    server.engine.send_signal(signal.SIGSTOP)  # so that it stays open
    request = post_in_thread(f"{server.url}/v1/completions", answers, stream=True)
    until(lambda: num_admitted(server) == num_before + 1)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=EXIT_S) == 0
    request.join(timeout=EXIT_S)
    assert "the server is stopping" in answers[0].text


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux to watch a grandchild")
def test_a_download_does_not_outlive_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        hub.add("owner/some-gpt2", small_files())
        hub.faults = [Fault(WEIGHTS, cut_at=10, stall=hub.released)]
        process = subprocess.Popen(
            [str(COMMAND), "serve", "owner/some-gpt2", "--port", "0"],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        with process:
            until(lambda: bool(psutil.Process(process.pid).children()))
            download = os.pidfd_open(psutil.Process(process.pid).children()[0].pid)
            process.kill()
            assert select.select([download], [], [], EXIT_S)[0], "the download outlives serve"
            os.close(download)
        hub.released.set()
