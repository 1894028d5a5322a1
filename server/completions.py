"""POST /v1/completions: check, encode, admit; from there on it is an Answer."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.answer import Answer, Answered, new_frame
from server.choice import Choice
from server.deadline import Deadline
from server.generation import Generation
from server.openapi import QUEUED, operation
from server.plan import Plan, make_plan
from server.schemas import NOT_BUILT, CompletionRequest
from server.seams import OutputStream
from server.sse import EVENTS, CompletionBody
from server.state import ServerState
from server.validation import read_request


def completion_routes(state: ServerState) -> APIRouter:
    """The route, for one app."""
    router = APIRouter()

    described = operation(CompletionBody, QUEUED, body=CompletionRequest, events=EVENTS)

    @router.post("/v1/completions", openapi_extra=described)
    async def create_completion(request: Request) -> Response:
        """Continue a prompt, or several, once or n times; whole or as events."""
        arrived_s = time.perf_counter()
        body = await read_request(request, CompletionRequest, NOT_BUILT, state.engine.check_queue)
        deadline = Deadline.after(body.timeout, state.settings.max_timeout_s)
        state.require_model(body.model)
        info, vocabulary = state.require_loaded()
        grammar = await state.constraints.grammar(body, info)
        plan = await make_plan(body, info, vocabulary, state.settings.max_choices, grammar)
        # No await from here on: a request that is admitted has a reader that will abort it.
        streams = _admit(state, plan)
        generation = Generation(
            [Choice(choice, plan, vocabulary, state.metrics, arrived_s) for choice in plan.choices],
            streams,
            state.settings.max_unread_tokens if body.stream else None,
            deadline,
        )
        frame = new_frame(state, info.fingerprint)
        return Answer(state, Answered(plan, generation, frame), arrived_s)

    return router


def _admit(state: ServerState, plan: Plan) -> Sequence[OutputStream]:
    """All choices or none. Raises EngineError."""
    items = [(choice.prompt_ids, choice.params) for choice in plan.choices]
    return state.admit(items, [len(prompt.ids) for prompt in plan.prompts], plan.request.priority)
