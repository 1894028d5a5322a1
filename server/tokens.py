"""POST /tokenize and /detokenize: between text and ids, without the engine."""

from __future__ import annotations

import asyncio
from itertools import accumulate, pairwise
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from engine.messages import ModelInfo
from server.body import read_object
from server.errors import ApiError
from server.openapi import body_of
from server.schemas import DetokenizeRequest, TokenizeRequest
from server.state import ServerState
from server.validation import validate
from server.vocabulary import Vocabulary, no_vocabulary


def token_routes(state: ServerState) -> APIRouter:
    """The two routes, for one app."""
    router = APIRouter()

    @router.post("/tokenize", openapi_extra=body_of(TokenizeRequest))
    async def tokenize(request: Request) -> Response:
        """Ids, names and byte offsets (start, end) of the tokens of a text."""
        body = validate(TokenizeRequest, await read_object(request))
        state.require_model(body.model)
        info, vocabulary = state.require_loaded()
        ids = await vocabulary.encode(body.prompt, "prompt")
        return _json(await asyncio.to_thread(_describe, ids, info, vocabulary))

    @router.post("/detokenize", openapi_extra=body_of(DetokenizeRequest))
    async def detokenize(request: Request) -> Response:
        """The text of token ids; U+FFFD stands for what is not UTF-8."""
        body = validate(DetokenizeRequest, await read_object(request))
        state.require_model(body.model)
        _, vocabulary = state.require_loaded()
        if not vocabulary.has_text:
            raise no_vocabulary("tokens")
        _check_tokens(body.tokens, vocabulary)
        return _json({"prompt": await asyncio.to_thread(vocabulary.decode, body.tokens)})

    return router


def _describe(ids: list[int], info: ModelInfo, vocabulary: Vocabulary) -> dict[str, Any]:
    ends = accumulate((len(vocabulary.token_bytes(token_id)) for token_id in ids), initial=0)
    return {
        "tokens": ids,
        "pieces": [vocabulary.label(token_id) for token_id in ids],
        "offsets": list(pairwise(ends)),
        "count": len(ids),
        "max_model_len": info.context_len,
    }


def _check_tokens(ids: list[int], vocabulary: Vocabulary) -> None:
    for index, token_id in enumerate(ids):
        if not vocabulary.has_token(token_id):
            raise ApiError(
                400,
                f"tokens[{index}] must be the id of a token of this vocabulary, got {token_id}",
                param="tokens",
                code="invalid_token_id",
            )


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
