"""Messages over a local stream socket: a length of four bytes (little-endian), then MessagePack.

The two ends are made with ``socketpair`` and one is inherited by the engine process, so there
is no file and no port that anyone else could open, and the kernel itself tells each side when
the other one is gone.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import msgspec

from engine.messages import FromEngine, ToEngine

MAX_FRAME_BYTES = 64 * 2**20
READ_BYTES = 256 * 2**10
HEADER = struct.Struct("<I")

Message = TypeVar("Message")


class FrameError(Exception):
    """What arrived is not one of our messages; the stream cannot be followed any further."""


class ChannelClosed(Exception):
    """The process at the other end is gone."""


def encode_frame(message: ToEngine | FromEngine) -> bytes:
    """One message as it goes over the wire, its length first."""
    payload = msgspec.msgpack.encode(message)
    return HEADER.pack(len(payload)) + payload


class FrameReader(Generic[Message]):
    """Bytes as they happen to arrive -> whole messages of one type."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[Message]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes, in order. Raises FrameError."""
        self._buffer += data
        messages: list[Message] = []
        start = 0
        while (end := self._frame_end(start)) is not None:
            messages.append(self._decode(self._buffer[start + HEADER.size : end]))
            start = end
        del self._buffer[:start]
        return messages

    def _frame_end(self, start: int) -> int | None:
        """Where the frame that begins at ``start`` ends; None while a part of it is missing."""
        if len(self._buffer) < start + HEADER.size:
            return None
        (payload_len,) = HEADER.unpack_from(self._buffer, start)
        if payload_len > MAX_FRAME_BYTES:
            msg = f"a frame is at most {MAX_FRAME_BYTES} bytes long; this one says {payload_len}"
            raise FrameError(msg)
        end: int = start + HEADER.size + payload_len
        return end if end <= len(self._buffer) else None

    def _decode(self, payload: bytearray) -> Message:
        try:
            return self._decoder.decode(payload)
        except msgspec.DecodeError as error:
            msg = f"a frame that is no message: {error}"
            raise FrameError(msg) from error


class EngineChannel:
    """The engine's end: blocking, for one thread. Owns the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader[ToEngine](msgspec.msgpack.Decoder(ToEngine))

    def receive(self, timeout_s: float | None) -> list[ToEngine]:
        """What has arrived, waiting up to ``timeout_s`` for it (None: for ever; 0: not at all).

        The list is empty when nothing came in time, or only a part of a message.
        Raises ChannelClosed, FrameError.
        """
        if timeout_s != 0 and not select.select([self._sock], [], [], timeout_s)[0]:
            return []
        try:
            data = self._sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError as error:
            raise ChannelClosed from error
        if not data:
            raise ChannelClosed
        return self._reader.feed(data)

    def send(self, message: FromEngine) -> None:
        """Send one message; blocks while the reader is far behind. Raises ChannelClosed."""
        try:
            self._sock.sendall(encode_frame(message))
        except OSError as error:
            raise ChannelClosed from error

    def close(self) -> None:
        """Give the socket back."""
        self._sock.close()


class EngineConnection(asyncio.Protocol):
    """The API process's end. ``closed`` is set, once and for good, when the engine is gone.

    ``on_message`` is called for each message, in order, and never after ``close``.
    What is written waits in memory while the engine is busy; admission bounds how much.
    """

    def __init__(self, on_message: Callable[[FromEngine], None]) -> None:
        self.closed = asyncio.Event()
        self.problem: str | None = None
        self._on_message = on_message
        self._reader = FrameReader[FromEngine](msgspec.msgpack.Decoder(FromEngine))
        self._transport: asyncio.WriteTransport | None = None

    @classmethod
    async def open(
        cls, sock: socket.socket, on_message: Callable[[FromEngine], None]
    ) -> EngineConnection:
        """Put ``sock``, which then belongs to the connection, on the running loop."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_unix_connection(lambda: cls(on_message), sock=sock)
        return connection

    def send(self, message: ToEngine) -> None:
        """Queue one message; dropped when the engine is gone, since nobody would read it."""
        if self._transport is not None and not self.closed.is_set():
            self._transport.write(encode_frame(message))

    def close(self) -> None:
        """Hear nothing more, drop what is unsent, give the socket back. Safe twice."""
        self.closed.set()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        # not isinstance: uvloop's transports do not derive from asyncio's
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by the loop, once for everything that has arrived."""
        if self.closed.is_set():
            return
        try:
            messages = self._reader.feed(data)
        except FrameError as error:
            self.problem = str(error)
            self.close()
            return
        for message in messages:
            if self.closed.is_set():
                return
            self._on_message(message)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Called by the loop."""
        self.closed.set()
