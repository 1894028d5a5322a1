"""Every way to say no, in OpenAI's form: one exception, one body, one table of statuses."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine import errors as engine_errors
from server.access_log import record_of

MAX_MESSAGE_LEN = 500
MAX_VALUE_LEN = 60


class ApiError(Exception):
    """An answer that is not 200. ``param`` is the field it is about, ``code`` is for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one class of engine error is told to a client."""

    status: int
    code: str


VERDICTS: Mapping[type[engine_errors.EngineError], Verdict] = {
    engine_errors.PromptTooLong: Verdict(400, "context_length_exceeded"),
    engine_errors.InvalidParams: Verdict(400, "invalid_value"),
    engine_errors.KillsEngine: Verdict(400, "request_kills_engine"),
    engine_errors.RequestRejected: Verdict(400, "invalid_request"),
    engine_errors.QueueFull: Verdict(429, "queue_full"),
    engine_errors.EngineFailed: Verdict(503, "engine_failed"),
    engine_errors.EngineDown: Verdict(503, "engine_down"),
    engine_errors.RequestFailed: Verdict(503, "request_failed"),
    engine_errors.EngineUnavailable: Verdict(503, "engine_unavailable"),
}
"""Each class by itself: a new one without a line here fails a test, and not a client."""


def from_engine(error: engine_errors.EngineError) -> ApiError:
    """The answer to an engine's error."""
    verdict = VERDICTS[type(error)]
    param = error.param if isinstance(error, engine_errors.RequestRejected) else None
    if isinstance(error, engine_errors.PromptTooLong) and param is None:
        param = "prompt"
    retry_after_s = (
        error.retry_after_s if isinstance(error, engine_errors.EngineUnavailable) else None
    )
    return ApiError(
        verdict.status, str(error), param=param, code=verdict.code, retry_after_s=retry_after_s
    )


def short(value: object) -> str:
    """A value as it may stand in a message: bounded, ASCII, whatever it is."""
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = MAX_VALUE_LEN
    text = brief.repr(value).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= MAX_VALUE_LEN else text[: MAX_VALUE_LEN - 3] + "..."


def _clean(text: str, max_len: int) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= max_len else text[: max_len - 3] + "..."


def _kind(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def error_body(error: ApiError) -> bytes:
    """The JSON of ``error``, short whatever the request held."""
    inner = {
        "message": _clean(error.message, MAX_MESSAGE_LEN),
        "type": _kind(error.status),
        "param": None if error.param is None else _clean(error.param, MAX_VALUE_LEN),
        "code": error.code,
    }
    return json.dumps({"error": inner}, separators=(",", ":")).encode()


class ErrorAnswer(Response):
    """An error on its way; the log hears its code."""

    def __init__(self, error: ApiError, headers: Mapping[str, str]) -> None:
        super().__init__(error_body(error), error.status, headers, "application/json")
        self._code = error.code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        record_of(scope).error_code = self._code
        await super().__call__(scope, receive, send)


def error_response(error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    """The whole answer to ``error``."""
    all_headers = dict(headers or {})
    if error.retry_after_s is not None:
        all_headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return ErrorAnswer(error, all_headers)


_ROUTING_CODES = {404: "not_found", 405: "method_not_allowed"}


def _routing_message(request: Request, status: int) -> str:
    path = short(request.url.path)
    if status == 404:
        return f"there is no route {path}; /docs lists those there are"
    if status == 405:
        return f"{path} does not take {short(request.method)}"
    return f"{short(request.method)} {path} is refused with status {status}"


async def _on_api_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    return error_response(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    status = error.status_code
    told = ApiError(status, _routing_message(request, status), code=_ROUTING_CODES.get(status))
    return error_response(told, error.headers)


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; the metrics count it


def install(app: FastAPI, on_rejection: Callable[[str], None]) -> None:
    """Give every error that a route can raise our form.

    ``on_rejection`` hears why a request was not admitted: an engine's error comes this way before
    that alone, afterwards it is part of an answer.
    """

    async def on_engine_error(_request: Request, error: Exception) -> Response:
        if not isinstance(error, engine_errors.EngineError):
            raise error
        on_rejection(VERDICTS[type(error)].code)
        return error_response(from_engine(error))

    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(engine_errors.EngineError, on_engine_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
