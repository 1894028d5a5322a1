"""EngineClient: the engine as the API process sees it.

It keeps every request until its end, so a dead engine is a pause: another one is started and
gets each open request again with the tokens it had brought so far. Draws are keyed, so the
rest is what it would have been. Imports no torch.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Sequence

from engine.admission import Throughput, check_queue, check_request, check_room, check_task_request
from engine.child import EngineChild
from engine.crash_report import CrashFolder
from engine.errors import EngineDown, EngineFailed, KillsEngine, RequestFailed
from engine.messages import (
    Abort,
    EngineConfig,
    EngineStats,
    FromEngine,
    Heartbeat,
    Loading,
    ModelInfo,
    Outputs,
    Ready,
    Refused,
    StepBegins,
    Submit,
)
from engine.open_requests import OpenRequest, OpenRequests
from engine.process import DEFAULT_FACTORY
from engine.quarantine import Quarantine
from engine.request import Request, SamplingParams, TaskParams
from engine.stream import RequestStream
from engine.supervision import RestartBudget, Supervision

logger = logging.getLogger(__name__)


class EngineClient:
    """Starts, supervises and feeds one engine process. For one event loop.

    ``on_stats`` is called once a step, ``on_failure`` once, when the engine is given up. Each death
    is written to ``crashes``, if given.
    The thread that runs the loop must live as long as the client: on Linux the engine dies
    with the thread that started it.
    """

    def __init__(
        self,
        config: EngineConfig,
        supervision: Supervision | None = None,
        factory: str = DEFAULT_FACTORY,
        crashes: CrashFolder | None = None,
    ) -> None:
        self.info: ModelInfo | None = None
        self.stats = EngineStats()
        self.num_restarts = 0
        self.failure: EngineFailed | None = None
        self.on_stats: list[Callable[[EngineStats], None]] = []
        self.on_failure: list[Callable[[EngineFailed], None]] = []
        self._config = config
        self._supervision = supervision or Supervision()
        self._factory = factory
        self._budget = RestartBudget(self._supervision)
        self._throughput = Throughput()
        self._ids = itertools.count()
        self._crashes = crashes
        self._open = OpenRequests()
        self._quarantine = Quarantine()
        self._child: EngineChild | None = None
        self._refusal: tuple[str, ...] | None = None
        self._is_closed = False
        self._settled = asyncio.Event()  # the first Ready, a failure, or close
        self._supervisor: asyncio.Task[None] | None = None

    # -- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the engine process. Needs a running loop; once."""
        if self._supervisor is not None or self._is_closed:
            raise RuntimeError("an EngineClient is started once")
        self._supervisor = asyncio.get_running_loop().create_task(self._supervise())

    async def ready(self) -> ModelInfo:
        """Wait until requests are accepted, for the first time. Raises EngineDown, EngineFailed."""
        await self._settled.wait()
        return self._accepting()

    async def close(self) -> None:
        """Stop the engine; open streams end with RequestFailed. Safe twice."""
        self._is_closed = True
        self._settled.set()
        self.fail_all("the engine was shut down")
        if self._supervisor is None:
            return
        if self._child is not None:
            await self._child.shut_down()
        self._supervisor.cancel()
        await asyncio.wait([self._supervisor])
        if self._child is not None:  # the cancellation may have met a kill halfway
            await self._child.kill()

    @property
    def is_up(self) -> bool:
        """The engine process is there, and has been heard from recently."""
        return self._child is not None and self._child.is_up

    @property
    def is_ready(self) -> bool:
        """It is up and loaded: what is submitted starts at once."""
        return self.is_up and self._child is not None and self._child.is_ready

    @property
    def pid(self) -> int | None:
        """The engine process, while there is one."""
        return self._child.pid if self._child is not None else None

    @property
    def num_open_requests(self) -> int:
        """Requests admitted and not yet ended, running or waiting."""
        return len(self._open)

    # -- requests --------------------------------------------------------------------------

    def submit(
        self, prompt_ids: Sequence[int], params: SamplingParams | TaskParams, priority: int = 0
    ) -> RequestStream:
        """Admit one request; see ``submit_all``."""
        return self.submit_all([(prompt_ids, params)], priority)[0]

    def submit_all(
        self, items: Sequence[tuple[Sequence[int], SamplingParams | TaskParams]], priority: int = 0
    ) -> list[RequestStream]:
        """Admit all of these requests or none; a plain call, nothing is sent before it is sure.

        While the engine restarts, requests are admitted and wait.
        Raises InvalidParams, PromptTooLong, KillsEngine, QueueFull, EngineDown, EngineFailed.
        """
        info = self._accepting()
        requests = tuple(self._checked(info, ids, params, priority) for ids, params in items)
        waiting_line = [entry.request for entry in self._open]
        check_room(self._config, info.num_slots, waiting_line, requests, self._throughput)
        entries = [
            OpenRequest(request, RequestStream(request.request_id, self._abort))
            for request in requests
        ]
        self._open.add(entries)
        self._dispatch()
        return [entry.stream for entry in entries]

    def check_queue(self) -> None:
        """Whether one more request could be admitted now. Raises QueueFull."""
        if self.info is not None:
            open_requests = (entry.request for entry in self._open)
            given = (self._config, self.info.num_slots, len(self._open), open_requests)
            check_queue(*given, self._throughput)

    def _checked(
        self,
        info: ModelInfo,
        ids: Sequence[int],
        params: SamplingParams | TaskParams,
        priority: int,
    ) -> Request:
        if isinstance(params, TaskParams):
            request = check_task_request(info, next(self._ids), ids, params, priority)
        else:
            request = check_request(info, next(self._ids), ids, params, priority)
        self._quarantine.check(request)
        return request

    def _accepting(self) -> ModelInfo:
        """What is served; raises where nothing can be submitted."""
        if self.failure is not None:
            raise EngineFailed(self.failure.problems)
        if self._is_closed:
            raise EngineDown("the engine was shut down")
        if self.info is None:
            raise EngineDown("the engine is still loading")
        return self.info

    def _abort(self, request_id: int) -> None:
        self._open.remove(request_id)
        if self._child is not None and self._child.is_ready:
            self._child.send(Abort((request_id,)))
        self._dispatch()  # it may have run alone

    def _dispatch(self) -> None:
        """Give the engine what it may have and has not."""
        if self._child is None or not self._child.is_ready:
            return
        due = self._open.take_due()
        if due:
            self._child.send(Submit(due))

    # -- what the engine says --------------------------------------------------------------

    def _on_message(self, message: FromEngine) -> None:
        match message:
            case Loading(what):
                logger.info("the engine is loading %s", what)
            case Ready(info):
                self._on_ready(info)
            case Refused(problems):
                self._refusal = problems
            case Heartbeat(stats):
                self.stats = stats
            case StepBegins():
                pass  # noted by the child
            case Outputs():
                self._on_outputs(message)

    def _on_ready(self, info: ModelInfo) -> None:
        """Hand over what is open; the first time that is nothing."""
        if self.info is not None and self.info.fingerprint != info.fingerprint:
            self.fail_all("the model changed while the engine restarted")
        self.info = info
        self._settled.set()
        self._dispatch()

    def _on_outputs(self, message: Outputs) -> None:
        self.stats = message.stats
        num_finished = 0
        for output in message.outputs:
            entry = self._open.get(output.request_id)
            if entry is None:  # its reader left while the step ran
                continue
            brought = entry.take(output)
            if brought.finish_reason is not None:
                self._open.remove(output.request_id)
                num_finished += 1
            entry.stream.push(brought)
        if any(output.finish_reason is not None for output in message.outputs):
            self._dispatch()  # it may have run alone
        self._throughput.observe(message.stats, num_finished)
        for listener in self.on_stats:
            listener(message.stats)

    # -- supervision -----------------------------------------------------------------------

    async def _supervise(self) -> None:
        """One engine after another, until closed or given up."""
        try:
            while True:
                reason = await self._run_child()
                if self._is_closed:
                    return None
                if self._refusal is not None:
                    if self.info is None:
                        return self._give_up(list(self._refusal))
                    reason = f"refused to start: {'; '.join(self._refusal)}"
                delay_s = self._budget.take(time.monotonic())
                if delay_s is None:
                    return self._give_up([f"the engine process died too often; the last {reason}"])
                logger.warning("the engine process %s; starting another", reason)
                await asyncio.sleep(delay_s)
                self.num_restarts += 1
        except Exception as error:
            self._give_up([f"the supervision of the engine broke: {error!r}"])
            raise

    async def _run_child(self) -> str:
        """One engine process from start to end; how it ended, for people."""
        self._refusal = None
        self._open.forget_engine()
        child = EngineChild(self._config, self._supervision, self._factory, self._on_message)
        self._child = child
        try:
            await child.start()
            reason = await child.watch()
            await self._on_death(child, reason)
            return reason
        except OSError as error:
            return f"could not be started: {error}"
        finally:
            self.stats = EngineStats()
            await child.kill()

    async def _on_death(self, child: EngineChild, reason: str) -> None:
        """Say whose fault it was, if that can be known, and write down what can be."""
        if self._is_closed or self._refusal is not None:
            return
        step = child.step
        guilty = self._open.blame(step.request_ids if step is not None else ())
        if self._crashes is not None:
            died = child.last_words(reason)
            await self._crashes.report(died, self._config, self.info, self.stats, self._open)
        if guilty is not None:
            self._condemn(guilty)

    def _condemn(self, guilty: OpenRequest) -> None:
        """Refuse it, whoever else asks the same, and whoever will."""
        told = "request %d is refused: the engine dies of it"
        guilty.context.run(logger.error, told, guilty.request.request_id)
        self._quarantine.add(guilty.request, len(guilty.emitted_ids))
        for entry in self._open:
            if entry is guilty or self._quarantine.holds(entry.request):
                self._open.fail(entry, KillsEngine())

    def _give_up(self, problems: list[str]) -> None:
        self.failure = EngineFailed(problems)
        self._settled.set()
        self.fail_all(str(self.failure))
        for listener in self.on_failure:
            listener(self.failure)

    def fail_all(self, why: str) -> None:
        """End every open request with one RequestFailed; the engine is not told."""
        for entry in self._open:
            self._open.fail(entry, RequestFailed(why))
