"""Constrained decoding: response_format, regex and choice as a grammar that can be followed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from engine.messages import ModelInfo
from model.grammar import GrammarError, Grammars, choice_grammar, json_grammar, regex_grammar
from server.errors import ApiError, short
from server.schemas import CompletionRequest
from server.vocabulary import Tokenizer, no_vocabulary

MAX_SCHEMA_LEN = 16_384
"""Characters of JSON; a grammar is sent to the engine with each choice."""

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


class Constraints:
    """Compiles, as the engine will, what a request wants its text to be like.

    One at a time, in a thread: each is bounded to some ten milliseconds, all of them together not.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._grammars: Grammars | None = None
        self._turn = asyncio.Lock()

    async def grammar(self, request: CompletionRequest, info: ModelInfo) -> str:
        """The grammar of a request's text; empty for any text. Raises ApiError."""
        asked = _asked(request)
        if not asked:
            return ""
        param, grammar_of = next(iter(asked.items()))
        self._check(asked, request, info)
        async with self._turn:
            return await asyncio.to_thread(self._compiled, param, grammar_of, info)

    def _check(
        self,
        asked: Mapping[str, Callable[[], str]],
        request: CompletionRequest,
        info: ModelInfo,
    ) -> None:
        param, *others = asked
        if others:
            raise _invalid(param, f"cannot be together with {others[0]}")
        if self._tokenizer is None:
            raise no_vocabulary(param)
        if info.device != "cpu":
            rule = "is not supported where the engine runs on a GPU"
            raise ApiError(400, f"{param} {rule}", param=param, code="unsupported_parameter")
        if request.ignore_eos:
            raise _invalid("ignore_eos", f"must be false with {param}, which says where to end")

    def _compiled(self, param: str, grammar_of: Callable[[], str], info: ModelInfo) -> str:
        if self._tokenizer is None:
            raise no_vocabulary(param)
        try:
            if self._grammars is None:
                self._grammars = Grammars(self._tokenizer, info.vocab_size, info.eos_token_ids)
            grammar = grammar_of()
            self._grammars.matcher(grammar)
        except GrammarError as error:
            raise _invalid(param, f"cannot be followed: {error}") from None
        return grammar


def _asked(request: CompletionRequest) -> dict[str, Callable[[], str]]:
    """The fields that ask for a grammar, and what makes it."""
    regex, choices, wanted = request.regex, request.choice, request.response_format
    asked: dict[str, Callable[[], str]] = {}
    if wanted is not None and wanted.type != "text":
        schema = ANY_OBJECT if wanted.json_schema is None else wanted.json_schema.schema_
        asked["response_format"] = lambda: _of_schema(schema)
    if regex is not None:
        asked["regex"] = lambda: regex_grammar(regex)
    if choices is not None:
        asked["choice"] = lambda: choice_grammar(choices)
    return asked


def _of_schema(schema: Mapping[str, Any]) -> str:
    length = len(json.dumps(schema))
    if length > MAX_SCHEMA_LEN:
        rule = f"must have a schema of at most {MAX_SCHEMA_LEN} characters"
        raise _invalid("response_format", f"{rule}, got {short(length)}")
    return json_grammar(schema)


def _invalid(param: str, message: str) -> ApiError:
    return ApiError(400, f"{param} {message}", param=param, code="invalid_value")
