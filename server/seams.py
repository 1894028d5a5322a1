"""What the routes need of the engine, and what they are made from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from engine.errors import EngineFailed
from engine.messages import EngineStats, ModelInfo
from engine.request import FinishReason, SamplingParams, TaskParams, TokenOutput


class OutputStream(Protocol):
    """One admitted request; ``engine.stream.RequestStream`` is the real one."""

    @property
    def request_id(self) -> int:
        """What the engine calls it."""

    def __aiter__(self) -> AsyncIterator[TokenOutput]:
        """Outputs, the last of which has a finish reason. Raises RequestFailed."""

    def abort(self, reason: FinishReason = FinishReason.ABORT, /) -> None:
        """A plain call, safe twice and after the end; who reads on is told the reason."""


class Engine(Protocol):
    """``engine.client.EngineClient`` as the routes see it."""

    @property
    def info(self) -> ModelInfo | None:
        """The loaded model; None until it is."""

    @property
    def is_up(self) -> bool:
        """The engine process lives and makes progress."""

    @property
    def is_ready(self) -> bool:
        """Requests are being served."""

    @property
    def num_restarts(self) -> int:
        """How often the engine process was started again."""

    @property
    def failure(self) -> EngineFailed | None:
        """Why the engine was given up; None while it was not."""

    @property
    def stats(self) -> EngineStats:
        """The engine's last word on itself, at most a heartbeat old."""

    @property
    def on_stats(self) -> list[Callable[[EngineStats], None]]:
        """Called after every step, and only then."""

    @property
    def on_failure(self) -> list[Callable[[EngineFailed], None]]:
        """Called once, when the engine is given up."""

    async def ready(self) -> ModelInfo:
        """Wait for the model. Raises EngineFailed."""

    def check_queue(self) -> None:
        """Raise QueueFull where no request could be admitted, whatever it asks."""

    def submit_all(
        self,
        items: Sequence[tuple[Sequence[int], SamplingParams | TaskParams]],
        priority: int = 0,
        /,
    ) -> Sequence[OutputStream]:
        """Admit all or none. Raises RequestRejected or EngineUnavailable."""
