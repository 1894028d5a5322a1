"""POST /tokenize and /detokenize: between text and ids, without the engine."""

from __future__ import annotations

import asyncio
from itertools import accumulate, pairwise
from typing import Annotated

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from engine.messages import ModelInfo
from server.errors import ApiError
from server.openapi import POSTED, operation
from server.schemas import DetokenizeRequest, TokenizeRequest
from server.state import ServerState
from server.validation import read_request
from server.vocabulary import Vocabulary, no_vocabulary


class TokensBody(msgspec.Struct, frozen=True):
    """The answer of /tokenize. ``offsets`` count bytes of the text, start and end."""

    tokens: list[int]
    pieces: list[str]
    offsets: list[Annotated[list[int], msgspec.Meta(min_length=2, max_length=2)]]
    count: int
    max_model_len: int


class TextBody(msgspec.Struct, frozen=True):
    """The answer of /detokenize."""

    prompt: str


def token_routes(state: ServerState) -> APIRouter:
    """The two routes, for one app."""
    router = APIRouter()

    described = operation(TokensBody, POSTED, body=TokenizeRequest)

    @router.post("/tokenize", openapi_extra=described)
    async def tokenize(request: Request) -> Response:
        """Ids, names and byte offsets (start, end) of the tokens of a text."""
        body = await read_request(request, TokenizeRequest)
        state.require_model(body.model)
        info, vocabulary = state.require_loaded()
        num_bytes = len(body.prompt.encode())
        _check_size("prompt", num_bytes, state.settings.max_tokenize_bytes)
        ids = await vocabulary.encode(body.prompt, "prompt")
        return _json(await asyncio.to_thread(_description, ids, info, vocabulary))

    described = operation(TextBody, POSTED, body=DetokenizeRequest)

    @router.post("/detokenize", openapi_extra=described)
    async def detokenize(request: Request) -> Response:
        """The text of token ids; U+FFFD stands for what is not UTF-8."""
        body = await read_request(request, DetokenizeRequest)
        state.require_model(body.model)
        _, vocabulary = state.require_loaded()
        if not vocabulary.has_text:
            raise no_vocabulary("tokens")
        most = state.settings.max_tokenize_bytes
        return _json(await asyncio.to_thread(_text, body.tokens, vocabulary, most))

    return router


def _description(ids: list[int], info: ModelInfo, vocabulary: Vocabulary) -> bytes:
    """JSON of some 35 times as many bytes as the text had."""
    ends = accumulate((len(vocabulary.token_bytes(token_id)) for token_id in ids), initial=0)
    told = TokensBody(
        tokens=ids,
        pieces=[vocabulary.label(token_id) for token_id in ids],
        offsets=[[start, end] for start, end in pairwise(ends)],
        count=len(ids),
        max_model_len=info.context_len,
    )
    return msgspec.json.encode(told)


def _text(ids: list[int], vocabulary: Vocabulary, max_bytes: int) -> bytes:
    """The JSON of the text of ``ids``. Raises ApiError."""
    _check_tokens(ids, vocabulary)
    num_bytes = sum(len(vocabulary.token_bytes(token_id)) for token_id in ids)
    _check_size("tokens", num_bytes, max_bytes)
    return msgspec.json.encode(TextBody(vocabulary.decode(ids)))


def _check_size(param: str, num_bytes: int, most: int) -> None:
    """The answer is many times as large, so the text has a bound of its own."""
    if num_bytes > most:
        rule = f"{param} must be a text of at most {most} bytes, got {num_bytes}"
        raise ApiError(400, rule, param=param, code="invalid_value")


def _check_tokens(ids: list[int], vocabulary: Vocabulary) -> None:
    for index, token_id in enumerate(ids):
        if not vocabulary.has_token(token_id):
            raise ApiError(
                400,
                f"tokens[{index}] must be the id of a token of this vocabulary, got {token_id}",
                param="tokens",
                code="invalid_token_id",
            )


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
