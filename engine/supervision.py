"""How patient the client is with its engine process, and how often it starts another one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Supervision:
    """All in seconds, but for ``max_restarts``.

    An idle engine speaks every ``heartbeat_s``. One that is silent for ``silence_s``, or for
    twenty times what its step should take where that is longer, is wedged and is killed; while
    loading the bound is ``loading_s``. More than ``max_restarts`` within ``restart_window_s``
    are not tried. The first restart is immediate, the second comes after ``backoff_s``, and each
    further one after twice as long.
    """

    heartbeat_s: float = 0.5
    silence_s: float = 30.0
    loading_s: float = 300.0
    shutdown_s: float = 5.0
    backoff_s: float = 0.5
    max_restarts: int = 5
    restart_window_s: float = 600.0

    def allowed_silence_s(self, predicted_s: float | None) -> float:
        """How long an engine may say nothing, by what its step should take; None: it loads."""
        if predicted_s is None:
            return self.loading_s
        return max(self.silence_s, 20 * predicted_s)


SLOW_FLOPS = 20e9
"""Of one slow core: what a step is predicted by until one has been measured."""


@dataclass
class StepPrediction:
    """How long the step under way should take, by the one before it, token by token."""

    num_parameters: int
    last_step_s: float = 0.0
    last_token_s: float | None = None

    def observe(self, step_s: float, num_tokens: int) -> None:
        """A step has ended."""
        self.last_step_s = step_s
        if num_tokens:
            self.last_token_s = step_s / num_tokens

    def predict_s(self, num_tokens: int) -> float:
        """A step of so many tokens. A first long prompt may take long without being wedged."""
        token_s = self.last_token_s
        if token_s is None:
            token_s = 2 * self.num_parameters / SLOW_FLOPS
        return max(self.last_step_s, num_tokens * token_s)


class RestartBudget:
    """Counts restarts and says how long to wait before the next one."""

    def __init__(self, supervision: Supervision) -> None:
        self._supervision = supervision
        self._restarts: deque[float] = deque()

    def take(self, now_s: float) -> float | None:
        """Use up one restart: the seconds to wait before it, or None when none is left."""
        window_start_s = now_s - self._supervision.restart_window_s
        while self._restarts and self._restarts[0] <= window_start_s:
            self._restarts.popleft()
        num_recent = len(self._restarts)
        if num_recent >= self._supervision.max_restarts:
            return None
        self._restarts.append(now_s)
        return self._supervision.backoff_s * 2.0 ** (num_recent - 1) if num_recent else 0.0
