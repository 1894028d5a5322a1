"""POST /v1/score: how likely a continuation is after a context."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.admission import max_prompt_len
from engine.errors import EngineError
from engine.messages import ModelInfo
from engine.request import FinishReason, RequestTimes, SamplingParams, TokenLogprob, TokenOutput
from server.answer import prompt_details
from server.deadline import Deadline
from server.errors import ApiError, from_engine, short
from server.generation import Generation
from server.openapi import QUEUED, operation
from server.prompts import Prompt, PromptReader, num_kept_of
from server.schemas import ScoreInput, ScoreRequest
from server.seams import OutputStream
from server.sse import UsageBody
from server.state import ServerState
from server.validation import read_request
from server.vocabulary import Vocabulary
from server.watched import WatchedAnswer, written


@dataclass(frozen=True, slots=True)
class Scored:
    """One input as the engine gets it: the tokens from ``scored_from`` on are the continuation."""

    prompt: Prompt
    scored_from: int

    @property
    def continuation_ids(self) -> tuple[int, ...]:
        """The tokens that are asked about."""
        return self.prompt.ids[self.scored_from :]


class ScoreBody(msgspec.Struct, frozen=True):
    """One result. An impossible token has null, and so has then the sum."""

    index: int
    log_likelihood: float | None
    num_tokens: int
    is_greedy: bool
    tokens: list[str]
    token_logprobs: list[float | None]


class ScoresBody(msgspec.Struct, frozen=True):
    """The answer."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    data: list[ScoreBody]
    usage: UsageBody
    object: str = "list"


def score_routes(state: ServerState) -> APIRouter:
    """The route, for one app."""
    router = APIRouter()

    described = operation(ScoresBody, QUEUED, body=ScoreRequest)

    @router.post("/v1/score", openapi_extra=described)
    async def create_score(request: Request) -> Response:
        """The log-likelihood of each continuation given its context."""
        arrived_s = time.perf_counter()
        body = await read_request(request, ScoreRequest, check_queue=state.engine.check_queue)
        deadline = Deadline.after(body.timeout, state.settings.max_timeout_s)
        state.require_model(body.model)
        info, vocabulary = state.require_loaded()
        scored = await read_inputs(body, info, vocabulary, state.settings.max_choices)
        # No await from here on: a request that is admitted has a reader that will abort it.
        streams = _admit(state, scored)
        readers = [ScoreReader(state) for _ in scored]
        generation = Generation(readers, streams, None, deadline)
        return ScoreAnswer(state, body, scored, generation, arrived_s)

    return router


async def read_inputs(
    request: ScoreRequest, info: ModelInfo, vocabulary: Vocabulary, max_inputs: int
) -> list[Scored]:
    """Check what needs the model, and encode. Raises ApiError and PromptTooLong."""
    num_inputs = len(request.input)
    if not 1 <= num_inputs <= max_inputs:
        rule = f"input must hold 1 to {max_inputs} inputs, got {short(num_inputs)}"
        raise ApiError(400, rule, param="input", code="invalid_value")
    max_len = max_prompt_len(info, max_tokens=0)
    num_kept = num_kept_of(request.truncate_prompt_tokens, max_len)
    reader = InputReader(PromptReader(info, vocabulary, max_len, num_kept))
    return [await reader.read(one, f"input {i}") for i, one in enumerate(request.input)]


@dataclass(frozen=True, slots=True)
class InputReader:
    """Finds the border between context and continuation among the tokens."""

    prompts: PromptReader

    async def read(self, one: ScoreInput, name: str) -> Scored:
        """Raises ApiError and PromptTooLong, about ``input``."""
        if not one.continuation:
            rule = f"input: the continuation of {name} must not be empty"
            raise ApiError(400, rule, param="input", code="invalid_value")
        ids, border = await self._encode(one, name)
        whole = Prompt(ids)
        prompt = self.prompts.fit(whole, name, "input")
        scored_from = border - prompt.num_truncated
        if scored_from < 1:
            rule = "input: truncate_prompt_tokens must leave a token before the continuation"
            found = f"{name} has {len(ids) - border} tokens in its continuation"
            raise ApiError(
                400,
                f"{rule}, so be at least {len(ids) - border + 1}; {found}",
                param="truncate_prompt_tokens",
                code="invalid_value",
            )
        return Scored(prompt, scored_from)

    async def _encode(self, one: ScoreInput, name: str) -> tuple[tuple[int, ...], int]:
        """The ids of both, and how many are the context's.

        Two texts are encoded as one, as they would have been read: a token with bytes of both
        belongs to the continuation. Where that leaves nothing before it, each is encoded alone.
        """
        context, continuation = one.context, one.continuation
        if isinstance(context, str) and isinstance(continuation, str) and context:
            ids = await self.prompts.ids(context + continuation, name, "input")
            border = self._border(ids, len(context.encode()))
            if border:
                return ids, border
        before = await self.prompts.ids(context, f"the context of {name}", "input")
        after = await self.prompts.ids(continuation, f"the continuation of {name}", "input")
        return before + after, len(before)

    def _border(self, ids: Sequence[int], num_context_bytes: int) -> int:
        """The number of tokens that end within the context."""
        end = 0
        for index, token_id in enumerate(ids):
            end += len(self.prompts.vocabulary.token_bytes(token_id))
            if end > num_context_bytes:
                return index
        return len(ids)


def _admit(state: ServerState, scored: Sequence[Scored]) -> Sequence[OutputStream]:
    """All inputs or none. Raises EngineError."""
    params = SamplingParams(max_tokens=0, num_prompt_logprobs=1)
    items = [
        (one.prompt.ids, msgspec.structs.replace(params, scored_from=one.scored_from))
        for one in scored
    ]
    return state.admit(items, [len(one.prompt.ids) for one in scored])


class ScoreReader:
    """Collects the log probabilities of one input."""

    def __init__(self, state: ServerState) -> None:
        self.is_ended = False
        self.is_late = False
        self.error: EngineError | None = None
        self.logprobs: list[TokenLogprob] = []
        self.num_cached_tokens = 0
        self.times: RequestTimes | None = None
        self.outcome: str | None = None
        self._metrics = state.metrics

    def take(self) -> None:
        """Nothing is shown before everything is there."""
        return

    def feed(self, output: TokenOutput) -> None:
        """Take one output."""
        self.logprobs += output.prompt_logprobs
        self.num_cached_tokens = max(self.num_cached_tokens, output.num_cached_tokens)
        self._metrics.on_scored(len(output.prompt_logprobs))
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


class ScoreAnswer(WatchedAnswer):
    """Sends all scores once the last one is there."""

    def __init__(
        self,
        state: ServerState,
        request: ScoreRequest,
        scored: Sequence[Scored],
        generation: Generation[ScoreReader],
        arrived_s: float,
    ) -> None:
        super().__init__(state.metrics, generation)
        self._state = state
        self._request = request
        self._scored = scored
        self._readers = generation.choices
        self._arrived_s = arrived_s

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ApiError if an input failed, or is late."""
        while await self._generation.next_deltas() is not None:
            pass
        for reader in self._readers:
            if reader.error is not None:
                raise from_engine(reader.error)
        if any(reader.is_late for reader in self._readers):
            raise self._generation.deadline.passed()
        num_scores = sum(len(reader.logprobs) for reader in self._readers)
        await self.send_body(await written(self._body, num_scores), scope, receive, send)

    def on_end(self) -> None:
        """The metrics hear of it."""
        self._state.metrics.on_completion(time.perf_counter() - self._arrived_s, self._num_cached)

    @property
    def _num_cached(self) -> int:
        return sum(reader.num_cached_tokens for reader in self._readers)

    def usage(self) -> UsageBody:
        """Nothing is generated."""
        prompts = [one.prompt for one in self._scored]
        num_tokens = sum(len(prompt.ids) for prompt in prompts)
        details = prompt_details(prompts, self._num_cached, self._request.truncate_prompt_tokens)
        return UsageBody(num_tokens, 0, num_tokens, details)

    def _body(self) -> bytes:
        info, vocabulary = self._state.require_loaded()
        pairs = zip(self._scored, self._readers, strict=True)
        body = ScoresBody(
            id=f"score-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self._state.model_name,
            system_fingerprint=info.fingerprint,
            data=[_score_body(i, *pair, vocabulary) for i, pair in enumerate(pairs)],
            usage=self.usage(),
        )
        return msgspec.json.encode(body)


def _score_body(
    index: int, scored: Scored, reader: ScoreReader, vocabulary: Vocabulary
) -> ScoreBody:
    ids = scored.continuation_ids
    values = [one.logprob for one in reader.logprobs]
    likeliest = [one.top[0][0] for one in reader.logprobs]
    return ScoreBody(
        index=index,
        log_likelihood=math.fsum(values),
        num_tokens=len(ids),
        is_greedy=likeliest == list(ids),
        tokens=[vocabulary.label(token_id) for token_id in ids],
        token_logprobs=[*values],
    )
