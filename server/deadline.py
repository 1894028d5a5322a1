"""Deadline: until when a request may wait and compute."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from server.errors import ApiError, short


@dataclass(frozen=True, slots=True)
class Deadline:
    """``timeout_s`` after the request came; ``at_s`` is the same on the clock of the loop."""

    timeout_s: float
    at_s: float

    @classmethod
    def after(cls, timeout: float | None, max_timeout_s: float) -> Deadline:
        """What a request asks for, from now on; the longest there is where it asks for nothing.

        Raises ApiError (400) for more than ``max_timeout_s``.
        """
        if timeout is not None and timeout > max_timeout_s:
            rule = f"timeout must be greater than 0 and at most {max_timeout_s:g} seconds"
            raise ApiError(
                400, f"{rule}, got {short(timeout)}", param="timeout", code="invalid_value"
            )
        timeout_s = max_timeout_s if timeout is None else timeout
        return cls(timeout_s, asyncio.get_running_loop().time() + timeout_s)

    def passed(self) -> ApiError:
        """The answer where there is nothing else to answer."""
        told = f"nothing was ready within the timeout of {self.timeout_s:g} seconds"
        return ApiError(504, told, code="deadline_exceeded")
