"""One engine process as its parent holds it: started, listened to, killed and reaped."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from engine.crash_report import LastWords
from engine.messages import (
    EngineConfig,
    FromEngine,
    Heartbeat,
    Outputs,
    Ready,
    Shutdown,
    StepBegins,
    ToEngine,
)
from engine.output_tail import STDERR, OutputTail
from engine.supervision import StepPrediction, Supervision
from engine.transport import EngineConnection

REAP_POLL_S = 0.005
EXIT_S = 1.0
"""How long a process that has hung up may take to end by itself, so that we learn why."""

TAIL_S = 0.5
"""How long the last of what a process printed may take to arrive after its end."""


def child_environment() -> dict[str, str]:
    """Ours, with an import path that finds what this process found, in the same order.

    OpenMP threads spin for some ten microseconds between products and sleep after that: spinning
    for long makes steps many times slower as soon as anything else wants a core, sleeping
    at once costs a third of a step.
    """
    root = str(Path(__file__).resolve().parents[1])
    paths = [path for path in sys.path if path]
    if root not in paths:
        paths.insert(0, root)
    is_told = "OMP_WAIT_POLICY" in os.environ
    spinning = {} if is_told else {"GOMP_SPINCOUNT": "10000"}
    return {**spinning, **os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def spawn(
    sock: socket.socket, factory: str, heartbeat_s: float, output: int = STDERR
) -> subprocess.Popen[bytes]:
    """Start ``engine.process`` with ``sock`` as its end of the line. Raises OSError.

    What it prints goes to the descriptor ``output``; never to our stdout, which belongs to the
    command that we are a part of.
    """
    options = {
        "--fd": sock.fileno(),
        "--parent-pid": os.getpid(),
        "--heartbeat-s": heartbeat_s,
        "--factory": factory,
    }
    return subprocess.Popen(
        # -P: a folder named "model" where the user happens to stand is not ours
        [sys.executable, "-P", "-m", "engine.process"]
        + [str(part) for option in options.items() for part in option],
        pass_fds=[sock.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=child_environment(),
    )


def describe_exit(returncode: int | None) -> str:
    """An exit status for people."""
    if returncode is None:
        return "closed its connection"
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"


class EngineChild:
    """One generation of the engine. Owns the process and the socket until ``kill`` returns.

    ``on_message`` hears every message in order, and nothing after ``kill``. ``step`` is what is
    being computed, as far as we know; None while it loads or has nothing to do.
    """

    def __init__(
        self,
        config: EngineConfig,
        supervision: Supervision,
        factory: str,
        on_message: Callable[[FromEngine], None],
    ) -> None:
        self.is_ready = False
        self.step: StepBegins | None = None
        self._config = config
        self._supervision = supervision
        self._factory = factory
        self._on_message = on_message
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: EngineConnection | None = None
        self._silent_s = 0.0
        self._prediction: StepPrediction | None = None
        self._output = OutputTail()
        self._started_s = time.monotonic()

    async def start(self) -> None:
        """Start the process and send it the configuration. Raises OSError."""
        output = await self._output.open()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                heartbeat_s = self._supervision.heartbeat_s
                self._process = spawn(theirs, self._factory, heartbeat_s, output)
            self._output.hand_over()
            ours.setblocking(False)
            self._connection = await EngineConnection.open(ours, self._hear)
        except BaseException:
            ours.close()
            raise
        self._connection.send(self._config)

    @property
    def pid(self) -> int | None:
        """The process id; None when there is no process, or it has been reaped."""
        if self._process is None or self._process.returncode is not None:
            return None
        return self._process.pid

    @property
    def is_up(self) -> bool:
        """Connected, and heard from recently enough."""
        is_connected = self._connection is not None and not self._connection.closed.is_set()
        return is_connected and self._silent_s <= self._allowed_silence_s

    def send(self, message: ToEngine) -> None:
        """Queue one message; dropped when the process is gone."""
        if self._connection is not None:
            self._connection.send(message)

    async def watch(self) -> str:
        """Wait until the process is gone, or silent for too long; says which, for people."""
        if self._connection is None or self._process is None:
            return "was not started"
        while self._silent_s <= self._allowed_silence_s:
            if await self._wait_closed(self._connection, self._supervision.heartbeat_s):
                await self._reap_for(EXIT_S)
                await self._output.ended(TAIL_S)
                return self._connection.problem or describe_exit(self._process.returncode)
        self._process.send_signal(signal.SIGUSR1)  # faulthandler says where it hangs
        await asyncio.sleep(REAP_POLL_S)
        return f"gave no sign of life for {self._silent_s:.1f} s"

    async def shut_down(self) -> None:
        """Ask it to leave and wait a while; ``kill`` is still to be called."""
        if self._connection is None or not self.is_ready:
            return
        self._connection.send(Shutdown())
        if await self._wait_closed(self._connection, self._supervision.shutdown_s):
            await self._reap_for(self._supervision.shutdown_s)

    async def kill(self) -> None:
        """End it at once, if it is still there, and leave neither zombie nor open file."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()  # does nothing to a process that has been reaped
            await self._reap_for(None)
        self._output.close()

    def last_words(self, reason: str) -> LastWords:
        """What is known of it now that it is gone."""
        return LastWords(
            reason=reason,
            returncode=self._process.returncode if self._process is not None else None,
            uptime_s=time.monotonic() - self._started_s,
            was_ready=self.is_ready,
            step=self.step,
            printed=self._output.text,
        )

    @property
    def _allowed_silence_s(self) -> float:
        if self._prediction is None:
            return self._supervision.allowed_silence_s(None)
        num_tokens = self.step.num_tokens if self.step is not None else 0
        return self._supervision.allowed_silence_s(self._prediction.predict_s(num_tokens))

    def _hear(self, message: FromEngine) -> None:
        self._silent_s = 0.0
        match message:
            case Ready(info):
                self.is_ready = True
                self._prediction = StepPrediction(info.num_parameters)
            case StepBegins():
                self.step = message
            case Heartbeat():
                self.step = None
            case Outputs(_, stats) if self._prediction is not None:
                self._prediction.observe(stats.step_s, stats.num_step_tokens)
        self._on_message(message)

    async def _wait_closed(self, connection: EngineConnection, timeout_s: float) -> bool:
        """Whether the connection closed in time; counts silence meanwhile.

        Only time in which our own loop was turning counts: after a pause of this process
        (a stopped job, a suspended machine) the engine is not to blame.
        """
        started_s = time.monotonic()
        try:
            # not wait_for, which until Python 3.12 may swallow a cancellation
            async with asyncio.timeout(timeout_s):
                await connection.closed.wait()
        except TimeoutError:
            self._silent_s += min(time.monotonic() - started_s, 2 * timeout_s)
            return False
        return True

    async def _reap_for(self, timeout_s: float | None) -> None:
        """Collect the exit status; polling, since a wait in a thread cannot be cancelled."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while self._process is not None and self._process.poll() is None:
            if deadline_s is not None and time.monotonic() > deadline_s:
                return
            await asyncio.sleep(REAP_POLL_S)
