"""OutputTail: what the engine process prints, passed on as it comes, and the end of it kept."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

KEPT_BYTES = 16 * 1024
STDERR = 2


class OutputTail(asyncio.Protocol):
    """Reads a pipe whose writing end is the engine's stdout and stderr; copies to our stderr."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._ended = asyncio.Event()
        self._transport: asyncio.BaseTransport | None = None
        self._write_fd: int | None = None

    async def open(self) -> int:
        """Make the pipe and listen; the descriptor that the process is to write to."""
        read_fd, self._write_fd = os.pipe()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: self, os.fdopen(read_fd, "rb", buffering=0))
        return self._write_fd

    def hand_over(self) -> None:
        """The process has its own copy of the writing end: give ours back. Safe twice."""
        if self._write_fd is not None:
            os.close(self._write_fd)
            self._write_fd = None

    async def ended(self, timeout_s: float) -> None:
        """Wait until the process, which is gone, has nothing more to say; a grandchild may."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()

    def close(self) -> None:
        """Hear nothing more. Safe twice."""
        self.hand_over()
        if self._transport is not None:
            self._transport.close()

    @property
    def text(self) -> str:
        """The last ``KEPT_BYTES`` that were printed."""
        return self._kept.decode("utf-8", "replace")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._kept += data
        del self._kept[:-KEPT_BYTES]
        with suppress(OSError):  # nobody reads ours: then it is only kept
            while data:
                data = data[os.write(STDERR, data) :]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Called by the loop."""
        self._ended.set()
