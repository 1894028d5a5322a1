from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from engine import process
from engine.child import child_environment, spawn
from engine.messages import (
    Abort,
    EngineConfig,
    FromEngine,
    Heartbeat,
    Loading,
    Outputs,
    Ready,
    Refused,
    Shutdown,
    StepBegins,
    Submit,
    ToEngine,
)
from engine.request import FinishReason, Request, SamplingParams
from engine.transport import FrameReader, encode_frame
from tests.engine.fake_core import FACTORY, RAISE_ID, Behaviour, expected_ids, fake_config

EXIT_S = 10


class Line:
    """Our end of the line to a bare engine process, blocking."""

    def __init__(self, sock: socket.socket, child: subprocess.Popen[bytes]) -> None:
        self.sock = sock
        self.child = child
        self._reader: FrameReader[FromEngine] = FrameReader(msgspec.msgpack.Decoder(FromEngine))
        self._heard: list[FromEngine] = []
        self.begun: list[FromEngine] = []

    def send(self, *messages: ToEngine) -> None:
        self.sock.sendall(b"".join(map(encode_frame, messages)))

    def hear(self) -> FromEngine | None:
        """The next message but for news of steps, which are in ``begun``; None at the end."""
        while not self._heard:
            data = self.sock.recv(2**16)
            if not data:
                return None
            for message in self._reader.feed(data):
                is_news = isinstance(message, StepBegins)
                (self.begun if is_news else self._heard).append(message)
        return self._heard.pop(0)

    def start(self, config: EngineConfig) -> FromEngine | None:
        """Configure it; its first word after Loading."""
        self.send(config)
        assert isinstance(self.hear(), Loading)
        return self.hear()


@contextmanager
def engine_process(heartbeat_s: float = 30.0) -> Iterator[Line]:
    ours, theirs = socket.socketpair()
    ours.settimeout(EXIT_S)
    with ours:
        with theirs:
            child = spawn(theirs, FACTORY, heartbeat_s)
        with child:
            try:
                yield Line(ours, child)
            finally:
                child.kill()


def test_it_loads_steps_and_leaves() -> None:
    params = SamplingParams(max_tokens=3, seed=5)
    with engine_process() as line:
        assert isinstance(line.start(fake_config()), Ready)
        line.send(Submit((Request(1, (2, 3), params), Request(2, (4,), params))))
        steps = [line.hear() for _ in range(3)]
        line.send(Shutdown())
        assert line.child.wait(EXIT_S) == 0
    outputs = [output for step in steps if isinstance(step, Outputs) for output in step.outputs]
    ids = tuple(o.token_ids[0] for o in outputs if o.request_id == 1)
    assert ids == expected_ids((2, 3), params)
    assert [o.request_id for o in outputs] == [1, 2] * 3
    assert [o.finish_reason for o in outputs[-2:]] == [FinishReason.LENGTH] * 2


def test_it_says_what_begins_once_and_again_after_a_pause() -> None:
    """Decoding is the same step again and again; who ran is known when it was the last word."""
    params = SamplingParams(max_tokens=3)
    with engine_process(heartbeat_s=0.01) as line:
        line.start(fake_config())
        for _ in range(2):
            line.send(Submit((Request(1, (2,), params), Request(2, (4,), params))))
            for kind in (Outputs, Heartbeat):
                while not isinstance(line.hear(), kind):
                    pass
    assert line.begun == [StepBegins((1, 2), 2, "decode")] * 2


def test_it_resumes_from_what_was_emitted() -> None:
    params = SamplingParams(max_tokens=3, seed=5)
    expected = expected_ids((2, 3), params)
    with engine_process() as line:
        line.start(fake_config())
        line.send(Submit((Request(1, (2, 3), params, emitted_ids=expected[:2]),)))
        step = line.hear()
    assert isinstance(step, Outputs)
    assert step.outputs[0].token_ids == expected[2:]
    assert step.outputs[0].finish_reason is FinishReason.LENGTH


def test_an_abort_that_leaves_it_idle_is_answered_at_once() -> None:
    """Long before the next heartbeat: whoever watches sees the free slot."""
    with engine_process() as line:
        line.start(fake_config(Behaviour(step_s=0.001)))
        line.send(Submit((Request(1, (2,), SamplingParams(max_tokens=10**6)),)))
        assert isinstance(line.hear(), Outputs)
        line.send(Abort((1, 77)))
        while isinstance(message := line.hear(), Outputs):
            pass
    assert isinstance(message, Heartbeat)
    assert message.stats.num_slots_in_use == 0


def test_it_beats_while_idle() -> None:
    with engine_process(heartbeat_s=0.01) as line:
        line.start(fake_config())
        assert isinstance(line.hear(), Heartbeat)
        assert isinstance(line.hear(), Heartbeat)


def test_it_leaves_when_the_line_closes() -> None:
    """Not Linux' death signal, which other systems lack: the socket alone."""
    with engine_process() as line:
        line.start(fake_config())
        line.sock.close()
        assert line.child.wait(EXIT_S) == 1


def test_a_refusal_names_every_problem() -> None:
    with engine_process() as line:
        refused = line.start(fake_config(Behaviour(refuse=("no file", "no room"))))
        assert line.child.wait(EXIT_S) == process.EXIT_REFUSED
    assert refused == Refused(("no file", "no room"))


def test_an_unexpected_error_while_loading_is_a_refusal_too() -> None:
    """Loading is the same every time, so trying again would not help."""
    with engine_process() as line:
        refused = line.start(fake_config(Behaviour(break_load=True)))
        assert line.child.wait(EXIT_S) == 1
    assert refused == Refused(("OSError: the disk is on fire",))


def test_a_broken_step_ends_the_process() -> None:
    with engine_process() as line:
        line.start(fake_config())
        line.send(Submit((Request(1, (RAISE_ID,), SamplingParams()),)))
        assert line.hear() is None
        assert line.child.wait(EXIT_S) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_is_the_parents_business(number: signal.Signals) -> None:
    """Ctrl-C and a service manager's stop reach both; the server finishes its answers first."""
    with engine_process(heartbeat_s=0.01) as line:
        line.start(fake_config())
        line.child.send_signal(number)
        line.send(Submit((Request(1, (2,), SamplingParams(max_tokens=1)),)))
        while isinstance(message := line.hear(), Heartbeat):
            pass
        assert isinstance(message, Outputs)
        line.send(Shutdown())
        assert line.child.wait(EXIT_S) == 0


def test_it_refuses_to_outlive_a_parent_that_died_first() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-m", "engine.process", "--fd", str(theirs.fileno())]
        command += ["--parent-pid", str(os.getpid() + 1), "--heartbeat-s", "1"]
        done = subprocess.run(
            command,
            env=child_environment(),
            pass_fds=[theirs.fileno()],
            timeout=EXIT_S,
            check=False,
        )
    assert done.returncode == 1


@pytest.mark.parametrize("module", ["engine.client", "engine.process", "engine.local"])
def test_importing_it_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), timeout=EXIT_S, check=False
    )
    assert done.returncode == 0
