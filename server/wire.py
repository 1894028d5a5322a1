"""HTTP as uvicorn reads it, with refusals in our form, and no connection that costs for ever."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from server.errors import ApiError, error_body, error_response
from server.headers import SECURITY_HEADERS, SecurityHeaders
from server.linger import Linger

LIMITS = "wire_limits"
"""Where an app's lifespan state has its WireLimits."""

MAX_PIPELINED = 16
MAX_EXTRA = 128
"""Connections beyond the limit that are told so; further ones are cut when they come."""

EXTRA_HEADER_S = 1.0
FAREWELL_S = 2.0
"""A socket that is closed with bytes unread resets the connection, and the refusal is lost with it:
so long what still comes is dropped."""

MIN_SENT_BYTES = 16_384
"""What a reader has to take of an answer that waits for it, within ``send_timeout_s``."""

PROBES = frozenset({b"/health", b"/ready", b"/metrics"})
"""Answered also to a connection too many: who is asked how it is must not be silent."""

_SECURITY = b"".join(b"%b: %b\r\n" % header for header in SECURITY_HEADERS).decode()

OFFERS = frozenset({b"connection", b"upgrade", b"http2-settings"})


@dataclass(frozen=True, slots=True)
class WireLimits:
    """What one connection may take. Seconds; a header's time begins with the connection, or with
    the first byte after an answer. ``on_refused`` hears the code of each refusal from here."""

    max_connections: int = 2_048
    max_header_bytes: int = 32_768
    header_timeout_s: float = 10.0
    send_timeout_s: float = 60.0
    on_refused: Callable[[str], None] = lambda _code: None


class TooManyPipelinedError(Exception):
    """A client asks on and on without reading an answer."""


class HttpProtocol(HttpToolsProtocol):
    """One connection. What is refused here was seen by no application."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits: WireLimits = app_state.get(LIMITS, WireLimits())
        self._header_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._is_extra = False
        self._has_head = False
        self._has_offer = False
        self._is_refused = False
        self._num_idle_bytes = 0

    # -- a connection ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """It may be one too many; then it gets the time to hear that."""
        super().connection_made(transport)
        num_extra = len(self.connections) - self._limits.max_connections
        self._is_extra = num_extra > 0
        if num_extra > MAX_EXTRA:
            self._limits.on_refused("too_many_connections")
            transport.abort()
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is left that would wake up for it."""
        self._stop_header_timer()
        self._stop_send_timer()
        super().connection_lost(exc)

    # -- what comes ------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes that bring neither a request nor a part of its body are bounded as its header is.

        That is a header that does not end, and the same after a body.
        """
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        if not self._is_answering:
            self._expect_head()
        self._num_idle_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(ApiError(400, "this is not HTTP", code="invalid_http"))
        if self._num_idle_bytes > self._limits.max_header_bytes:
            rule = f"the header must have at most {self._limits.max_header_bytes} bytes"
            told = f"{rule}; {self._num_idle_bytes} have come and there are more"
            self._refuse(ApiError(431, told, code="header_too_large"))

    def _feed(self, data: bytes) -> None:
        """Nothing is upgraded here; the parser takes what follows an offer for something else, so
        it is given the same request again without the offer."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                if self.parser.get_method() == b"CONNECT":
                    self._refuse(ApiError(405, "CONNECT is not taken", code="method_not_allowed"))
                    return
                data = self._head_without_offer() + data[offer.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn
            else:
                return

    def _head_without_offer(self) -> bytes:
        self._has_offer = False
        lines = [b"%b %b HTTP/1.1" % (self.parser.get_method(), self.url)]
        lines += [b"%b: %b" % (name, value) for name, value in self.headers if name not in OFFERS]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self.headers):
            lines.append(b"connection: close")
        return b"\r\n".join([*lines, b"", b""])

    def on_message_begin(self) -> None:
        """A request begins."""
        self._num_idle_bytes = 0
        self._has_head = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Those behind a body are read by nobody."""
        if not self._has_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The application begins, unless the connection is one too many."""
        self._has_head = True
        self._has_offer = self.parser.should_upgrade()
        if self._has_offer:
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            raise TooManyPipelinedError
        self._stop_header_timer()
        if self._is_extra and self.url.partition(b"?")[0] not in PROBES:
            self.app = self._too_many_connections()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._num_idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request, or of one that is about to be read again."""
        if not self._has_offer:
            super().on_message_complete()

    # -- what goes -------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """A reader has fallen behind; it has to take something in time."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._stop_send_timer()
        super().resume_writing()

    def _await_reader(self) -> None:
        num_unsent = self.transport.get_write_buffer_size()
        self._send_timer = self.loop.call_later(
            self._limits.send_timeout_s, self._check_reader, num_unsent
        )

    def _check_reader(self, num_before: int) -> None:
        if num_before - self.transport.get_write_buffer_size() >= MIN_SENT_BYTES:
            self._await_reader()
            return
        self._limits.on_refused("send_timeout")
        self.transport.abort()

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    # -- refusals --------------------------------------------------------------------------

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        """From now on there is a bound for the time of the next header."""
        if self._header_timer is None:
            limit_s = self._limits.header_timeout_s
            limit_s = min(limit_s, EXTRA_HEADER_S) if self._is_extra else limit_s
            self._header_timer = self.loop.call_later(limit_s, self._on_header_late, limit_s)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _on_header_late(self, limit_s: float) -> None:
        if self._is_answering:  # it ended while one before it is answered
            self._header_timer = None
        elif self._num_idle_bytes or self.scope is not None:
            told = f"the header must come within {limit_s:g} seconds"
            self._refuse(ApiError(408, told, code="request_timeout"))
        else:
            self.transport.close()  # it was opened, and that was all

    def _too_many_connections(self) -> Any:
        """An application that says so, and lets go of the connection."""
        self._limits.on_refused("too_many_connections")
        rule = f"there may be at most {self._limits.max_connections} connections"
        told = ApiError(503, rule, code="too_many_connections", retry_after_s=1.0)
        headers = {"Connection": "close", "X-Request-Id": uuid.uuid4().hex}
        return SecurityHeaders(Linger(error_response(told, headers)))

    def _dropped_unfinished(self) -> bool:
        """Whether what is refused is the rest of a request that waits for it; it ends then."""
        cycle = self.cycle
        if self.pipeline or cycle.response_started or not cycle.more_body:
            return False
        cycle.disconnected = True
        cycle.message_event.set()
        return True

    def _refuse(self, error: ApiError) -> None:
        """Answer and hang up; a request before it gets its own answer, the last one here."""
        if self._is_refused:
            return
        self._is_refused = True
        self._limits.on_refused(error.code or "")
        if self._is_answering and not self._dropped_unfinished():
            self.cycle.keep_alive = False
            return
        body = error_body(error)
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
            f"{_SECURITY}content-type: application/json\r\n"
            f"content-length: {len(body)}\r\n"
            f"x-request-id: {uuid.uuid4().hex}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.write_eof()
        self._stop_header_timer()
        self._header_timer = self.loop.call_later(FAREWELL_S, self.transport.close)
