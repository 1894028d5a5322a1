"""KeyGate: no route answers without a key, but for the page and for what says whether we live."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import ApiError, error_response
from server.keys import Grant, Keys
from server.page import PAGE_FILES

PUBLIC_PATHS = frozenset({"/health", "/ready", *PAGE_FILES})
"""What needs no key. Everything that is not named here does: a new route cannot be forgotten."""

ADMIN_PATHS = frozenset({"/metrics"})
"""Where there is an admin key, only it opens these."""

REALM = 'Bearer realm="gpt2-server"'


class KeyGate:
    """Asks for ``Authorization: Bearer KEY`` before anything is routed.

    So a path without a route, or a method that it does not take, is 401 as well: without a key
    nobody learns which routes there are.
    """

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or self._keys.is_empty or scope["path"] in PUBLIC_PATHS:
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        key = bearer_key(scope)
        if key is None:
            told = "this server needs a key: send the header Authorization: Bearer KEY"
            return _unauthorised(told, REALM)
        grant = self._keys.grant(key)
        if grant is Grant.NOTHING:
            return _unauthorised("the key is not known", f'{REALM}, error="invalid_token"')
        needs_admin = self._keys.admin is not None and scope["path"] in ADMIN_PATHS
        if needs_admin and grant is not Grant.ADMIN:
            told = "this route needs the admin key"
            return error_response(ApiError(403, told, code="admin_key_required"))
        return None


def bearer_key(scope: Scope) -> str | None:
    """The key that a request brings; None without one, or with two headers that name one."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(values) != 1:
        return None
    scheme, _, key = values[0].decode("latin-1").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def _unauthorised(message: str, challenge: str) -> Response:
    told = ApiError(401, message, code="invalid_api_key")
    return error_response(told, {"WWW-Authenticate": challenge})
