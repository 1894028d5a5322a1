"""The engine process: owns the device, steps the core, and dies with its parent.

Started by engine/child.py as ``python -m engine.process``. torch and the checkpoint are
loaded by the factory alone, so this module is cheap to import.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import importlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from engine.device.fault import DeviceFault
from engine.errors import EngineFailed
from engine.messages import (
    Abort,
    EngineConfig,
    EngineStats,
    Heartbeat,
    Loading,
    ModelInfo,
    Outputs,
    Ready,
    Refused,
    Shutdown,
    StepBegins,
    Submit,
    TaskSource,
    ToEngine,
)
from engine.request import Request, TokenOutput
from engine.transport import ChannelClosed, EngineChannel

if TYPE_CHECKING:
    from engine.tasks import LoadedTask
    from weights.checkpoint import Checkpoint

DEFAULT_FACTORY = "engine.process:load_core"
EXIT_REFUSED = 2
EXIT_DEVICE_LOST = 3
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Core(Protocol):
    """What the loop needs of an EngineCore; tests bring a small one of their own.

    ``on_step`` is called before each step with what it computes.
    """

    on_step: Callable[[StepBegins], None] | None

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""

    @property
    def stats(self) -> EngineStats:
        """The last step, and the state now."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue them, in this order."""

    def abort(self, request_ids: Sequence[int]) -> None:
        """Forget them; unknown ids are ignored."""

    def step(self) -> tuple[list[TokenOutput], EngineStats]:
        """Schedule, run, update."""


Factory = Callable[[EngineConfig], tuple[Core, ModelInfo]]


def load_core(config: EngineConfig) -> tuple[Core, ModelInfo]:
    """Open the checkpoint and build the real core. Raises EngineFailed with every problem."""
    from engine.device.loader import build_device_core, device_of
    from engine.grammars import CheckpointGrammars
    from engine.loader import build_core
    from weights.checkpoint import CheckpointError, open_checkpoint

    try:
        checkpoint = open_checkpoint(Path(config.checkpoint))
    except CheckpointError as error:
        raise EngineFailed(list(error.problems)) from error
    tasks = load_tasks(config.tasks, checkpoint)
    source = str(checkpoint.source.get("origin", checkpoint.path))
    given = (checkpoint.config, checkpoint.tensors, config, checkpoint.weights_hash, source)
    if device_of(config.device) == "cpu":
        core, info = build_core(*given, checkpoint.matrices, tasks)
        grammars = CheckpointGrammars(checkpoint.path, info.vocab_size, info.eos_token_ids)
        core.scheduler.matcher_of = grammars.matcher
        return core, info
    if not all(source.is_optional for source in config.tasks):
        raise EngineFailed(["tasks are served on a CPU so far: device must be cpu"])
    return build_device_core(*given, checkpoint.matrices)


def load_tasks(sources: Sequence[TaskSource], checkpoint: Checkpoint) -> list[LoadedTask]:
    """The tasks that are served beside ``checkpoint``. Raises EngineFailed with all problems."""
    from weights.checkpoint import CheckpointError

    tasks, problems = [], []
    for source in sources:
        try:
            tasks.append(load_task(source, checkpoint))
        except CheckpointError as error:
            problems += [f"task {source.name!r}: {problem}" for problem in error.problems]
    if problems:
        raise EngineFailed(problems)
    return tasks


def load_task(source: TaskSource, checkpoint: Checkpoint) -> LoadedTask:
    """One of them. Raises CheckpointError."""
    from engine.networks import Weights
    from engine.tasks import LoadedTask
    from model.lora import adapter_of
    from weights.checkpoint import CheckpointError
    from weights.task import open_task

    task = open_task(Path(source.path), checkpoint)
    found, wanted = task.description.trunk_config.vocab_size, checkpoint.config.vocab_size
    if found != wanted:
        rule = f"its vocabulary must be the served checkpoint's, of {wanted} tokens"
        raise CheckpointError([f"{rule}, got {found}"])
    own, lora = task.own_trunk, task.description.lora
    trunk = None if own is None else Weights(own.config, own.tensors, own.matrices)
    return LoadedTask(
        name=source.name,
        head=task.head,
        special=task.special,
        trunk=trunk,
        train=task.description.train,
        weights_hash=task.weights_hash,
        source=str(task.source.get("origin", task.path)),
        adapter=None if lora is None else adapter_of(task.adapters, lora.scale),
    )


def find_factory(name: str) -> Factory:
    """The function that ``module:function`` names."""
    module_name, _, function_name = name.partition(":")
    return cast("Factory", getattr(importlib.import_module(module_name), function_name))


def die_with_parent(parent_pid: int) -> None:
    """Be killed when the parent dies, even while stopped or deep in a kernel (Linux only).

    Elsewhere, and as a second net here, the closed socket ends the loop.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the line above
        raise SystemExit(1)


def await_config(channel: EngineChannel) -> EngineConfig:
    """The first message says what to load."""
    messages: list[ToEngine] = []
    while not messages:
        messages = channel.receive(None)
    if not isinstance(messages[0], EngineConfig):
        msg = f"the first message is an EngineConfig, not {type(messages[0]).__name__}"
        raise TypeError(msg)
    return messages[0]


def load(channel: EngineChannel, factory: str) -> Core | None:
    """Build the core and announce it; None when it was refused, which has then been said."""
    config = await_config(channel)
    channel.send(Loading(config.checkpoint))
    try:
        core, info = find_factory(factory)(config)
    except EngineFailed as error:
        channel.send(Refused(tuple(error.problems)))
        return None
    except Exception as error:
        channel.send(Refused((f"{type(error).__name__}: {error}",)))
        raise
    channel.send(Ready(info))
    return core


def apply_message(core: Core, message: ToEngine) -> bool:
    """Do what the client asks; False when that is to leave."""
    match message:
        case Submit(requests):
            core.submit(requests)
        case Abort(request_ids):
            core.abort(request_ids)
        case Shutdown():
            return False
        case EngineConfig():
            msg = "a second EngineConfig"
            raise TypeError(msg)
    return True


class StepTeller:
    """Says what begins, unless it is what was said last: decoding goes on for long without news."""

    def __init__(self, channel: EngineChannel) -> None:
        self._channel = channel
        self._last: StepBegins | None = None

    def __call__(self, step: StepBegins) -> None:
        """A step begins."""
        if step != self._last:
            self._channel.send(step)
            self._last = step

    def forget(self) -> None:
        """The loop is idle, and the next step is news."""
        self._last = None


def serve(channel: EngineChannel, core: Core, heartbeat_s: float) -> None:
    """Step while there is work, sleep on the socket while there is none.

    Every pass sends one message, so silence means that this loop does not turn.
    """
    teller = StepTeller(channel)
    core.on_step = teller
    while True:
        for message in channel.receive(0 if core.has_work else heartbeat_s):
            if not apply_message(core, message):
                return
        if core.has_work:
            outputs, stats = core.step()
            channel.send(Outputs(tuple(outputs), stats))
        else:
            teller.forget()
            channel.send(Heartbeat(core.stats))


def run(channel: EngineChannel, factory: str, heartbeat_s: float) -> int:
    """Load and serve until told to leave; the exit code."""
    try:
        core = load(channel, factory)
        if core is None:
            return EXIT_REFUSED
        serve(channel, core, heartbeat_s)
    except ChannelClosed:
        return 1
    except DeviceFault as fault:
        print(f"engine: {fault}", file=sys.stderr)  # noqa: T201  # the parent's log
        return EXIT_DEVICE_LOST
    finally:
        channel.close()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the process.

    SIGINT and SIGTERM sent to the whole process group are for the parent, which finishes what
    runs and then ends this process; a dead parent ends it in any case.
    """
    parser = argparse.ArgumentParser(prog="engine.process")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    parser.add_argument("--heartbeat-s", type=float, required=True)
    parser.add_argument("--factory", default=DEFAULT_FACTORY)
    options = parser.parse_args(arguments)
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    faulthandler.enable()  # where it was when native code broke, for the crash report
    faulthandler.register(signal.SIGUSR1)  # where it hangs, before it is killed for that
    die_with_parent(options.parent_pid)
    os.set_inheritable(options.fd, False)  # a grandchild must not keep the socket open
    channel = EngineChannel(socket.socket(fileno=options.fd))
    return run(channel, options.factory, options.heartbeat_s)


if __name__ == "__main__":
    sys.exit(main())
