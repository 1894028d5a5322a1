"""HTTP as uvicorn reads it, with refusals in our form."""

from __future__ import annotations

import uuid

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.errors import ApiError, error_body


class HttpProtocol(HttpToolsProtocol):
    """What is not HTTP is refused in the form of every other refusal."""

    def send_400_response(self, msg: str) -> None:
        """Answer and hang up; no application has seen this request."""
        body = error_body(ApiError(400, msg, code="invalid_http"))
        head = (
            "HTTP/1.1 400 Bad Request\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\n"
            f"x-request-id: {uuid.uuid4().hex}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """No advice to install a WebSocket library whenever a client offers to upgrade."""
