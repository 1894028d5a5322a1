"""POST /v1/classify: what a task's head says of an input."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import EngineError
from engine.messages import ModelInfo, TaskInfo
from engine.request import FinishReason, RequestTimes, TaskParams, TokenOutput
from model.tasks import TaskConfig, TaskInputError, outcome, sequences
from server.deadline import Deadline
from server.errors import ApiError, from_engine, short
from server.generation import Generation
from server.openapi import QUEUED, operation
from server.prompts import PromptReader, TextOrIds
from server.schemas import ClassifyInput, ClassifyRequest
from server.sse import PromptDetailsBody, UsageBody
from server.state import ServerState
from server.validation import read_request
from server.watched import WatchedAnswer

FIELDS = {
    "classification": ("text",),
    "entailment": ("premise", "hypothesis"),
    "similarity": ("text_a", "text_b"),
    "multiple_choice": ("context", "choices"),
}
"""What an input of each form consists of."""


@dataclass(frozen=True, slots=True)
class Task:
    """A served task as the route needs it."""

    info: TaskInfo
    config: TaskConfig

    @classmethod
    def of(cls, info: TaskInfo) -> Task:
        """With sequences no longer than a slot."""
        config = TaskConfig.from_dict(info.config)
        return cls(info, dataclasses.replace(config, max_len=info.max_len))


class ClassificationBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """One result. A regression has only a score, a multiple choice the number of a choice."""

    index: int
    label: str | None
    score: float
    probabilities: dict[str, float] | None = None


class ClassificationsBody(msgspec.Struct, frozen=True):
    """The answer."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    data: list[ClassificationBody]
    usage: UsageBody
    object: str = "list"


def classify_routes(state: ServerState) -> APIRouter:
    """The route, for one app."""
    router = APIRouter()

    described = operation(ClassificationsBody, QUEUED, body=ClassifyRequest)

    @router.post("/v1/classify", openapi_extra=described)
    async def create_classification(request: Request) -> Response:
        """A label and its probability for each input, or a score."""
        arrived_s = time.perf_counter()
        body = await read_request(request, ClassifyRequest, check_queue=state.engine.check_queue)
        deadline = Deadline.after(body.timeout, state.settings.max_timeout_s)
        info, vocabulary = state.require_loaded()
        task = require_task(info, body.model)
        check_number(len(body.input), "inputs", state.settings.max_choices)
        reader = InputReader(task, PromptReader(info, vocabulary, info.context_len, num_kept=1))
        inputs = [await reader.read(one, index) for index, one in enumerate(body.input)]
        num_sequences = sum(len(ids) for ids in inputs)
        check_number(num_sequences, "sequences", state.settings.max_choices)
        # No await from here on: a request that is admitted has a reader that will abort it.
        items = [
            (ids, TaskParams(task.info.name, part))
            for sequences_of_one in inputs
            for part, ids in enumerate(sequences_of_one)
        ]
        streams = state.admit(items, [len(ids) for ids, _ in items])
        generation = Generation([LogitsReader(state) for _ in items], streams, None, deadline)
        return ClassifyAnswer(state, task, inputs, generation, arrived_s)

    return router


def require_task(info: ModelInfo, name: str | None) -> Task:
    """The task called ``name``; the only one, where none is named. Raises ApiError."""
    names = [task.name for task in info.tasks]
    if name is None and len(names) == 1:
        return Task.of(info.tasks[0])
    for task in info.tasks:
        if task.name == name:
            return Task.of(task)
    known = ", ".join(names) or "none, serve --task NAME=DIR adds one"
    if name is None:
        raise ApiError(
            400,
            f"model is required, one of the tasks that are served: {known}",
            param="model",
            code="missing_parameter",
        )
    rule = f"the model must be one of the tasks that are served ({known})"
    raise ApiError(404, f"{rule}, got {short(name)}", param="model", code="model_not_found")


def check_number(count: int, what: str, most: int) -> None:
    """Raise ApiError unless there are 1 to ``most``."""
    if not 1 <= count <= most:
        rule = f"input must come to 1 to {most} {what}, got {count}"
        raise ApiError(400, rule, param="input", code="invalid_value")


@dataclass(frozen=True, slots=True)
class InputReader:
    """Makes sequences of the inputs of one request."""

    task: Task
    prompts: PromptReader

    async def read(self, one: ClassifyInput, index: int) -> tuple[tuple[int, ...], ...]:
        """The id sequences of one input. Raises ApiError."""
        parts = [await self._ids(text, name) for name, text in self._parts(one, index)]
        try:
            return sequences(self.task.config, tuple(parts), self.task.info.first_special_id)
        except TaskInputError as error:
            raise ApiError(
                400, f"input[{index}]: {error}", param="input", code="invalid_value"
            ) from error

    def _parts(self, one: ClassifyInput, index: int) -> list[tuple[str, TextOrIds]]:
        """Every text with its name, in the order of the form."""
        form = self.task.config.form
        wanted = FIELDS[form]
        given = [name for name in type(one).model_fields if getattr(one, name) is not None]
        if sorted(given) != sorted(wanted):
            rule = f"input[{index}] must have {' and '.join(wanted)}"
            rule += f" and nothing else for {short(self.task.info.name)}, a task of {form}"
            found = f"it has {', '.join(given) or 'nothing'}"
            raise ApiError(400, f"{rule}; {found}", param="input", code="invalid_value")
        texts: list[tuple[str, TextOrIds]] = []
        for name in wanted:
            value = getattr(one, name)
            many = value if name == "choices" else [value]
            marks = [f"[{i}]" for i in range(len(many))] if name == "choices" else [""]
            texts += [
                (f"input[{index}].{name}{mark}", text)
                for mark, text in zip(marks, many, strict=True)
            ]
        return texts

    async def _ids(self, text: TextOrIds, name: str) -> tuple[int, ...]:
        if not text:
            raise ApiError(400, f"{name} must not be empty", param="input", code="invalid_value")
        return await self.prompts.ids(text, name, "input")


class LogitsReader:
    """Waits for the logits of one sequence."""

    def __init__(self, state: ServerState) -> None:
        self.is_ended = False
        self.is_late = False
        self.error: EngineError | None = None
        self.logits: tuple[float, ...] = ()
        self.num_cached_tokens = 0
        self.times: RequestTimes | None = None
        self.outcome: str | None = None
        self._metrics = state.metrics

    def take(self) -> None:
        """Nothing is shown before everything is there."""
        return

    def feed(self, output: TokenOutput) -> None:
        """Take one output."""
        self.logits = self.logits or output.logits
        self.num_cached_tokens = max(self.num_cached_tokens, output.num_cached_tokens)
        if output.times is not None:
            self.times = output.times
            self._metrics.on_times(output.times)
        self.is_late = output.finish_reason is FinishReason.TIMEOUT
        if output.finish_reason is not None:
            self.outcome, self.is_ended = output.finish_reason.value, True

    def fail(self, error: EngineError) -> None:
        """The request is lost."""
        self.error, self.outcome, self.is_ended = error, "error", True

    def give_up(self) -> None:
        """Nobody reads on."""
        self.outcome, self.is_ended = self.outcome or FinishReason.ABORT.value, True


class ClassifyAnswer(WatchedAnswer):
    """Sends all results once the last one is there."""

    def __init__(
        self,
        state: ServerState,
        task: Task,
        inputs: Sequence[tuple[tuple[int, ...], ...]],
        generation: Generation[LogitsReader],
        arrived_s: float,
    ) -> None:
        super().__init__(state.metrics, generation)
        self._state = state
        self._task = task
        self._inputs = inputs
        self._readers = generation.choices
        self._arrived_s = arrived_s

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ApiError if a sequence failed, or is late."""
        while await self._generation.next_deltas() is not None:
            pass
        for reader in self._readers:
            if reader.error is not None:
                raise from_engine(reader.error)
        if any(reader.is_late for reader in self._readers):
            raise self._generation.deadline.passed()
        await self.send_body(self._body(), scope, receive, send)

    def on_end(self) -> None:
        """The metrics hear of it."""
        duration_s = time.perf_counter() - self._arrived_s
        self._state.metrics.on_classified(self._task.info.name, len(self._inputs), duration_s)

    def usage(self) -> UsageBody:
        """Nothing is generated."""
        num_tokens = sum(len(ids) for one in self._inputs for ids in one)
        num_cached = sum(reader.num_cached_tokens for reader in self._readers)
        return UsageBody(num_tokens, 0, num_tokens, PromptDetailsBody(num_cached))

    def _body(self) -> bytes:
        logits = iter([reader.logits for reader in self._readers])
        data = [
            _classification(index, self._task.config, [next(logits) for _ in ids])
            for index, ids in enumerate(self._inputs)
        ]
        body = ClassificationsBody(
            id=f"classify-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self._task.info.name,
            system_fingerprint=self._task.info.fingerprint,
            data=data,
            usage=self.usage(),
        )
        return msgspec.json.encode(body)


def _classification(
    index: int, config: TaskConfig, logits: Sequence[Sequence[float]]
) -> ClassificationBody:
    found = outcome(config, logits)
    probabilities = dict(found.probabilities) or None
    return ClassificationBody(index, found.label, found.score, probabilities)
