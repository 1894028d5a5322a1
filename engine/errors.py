"""Everything that can go wrong with a request, as a tree with two trunks.

::

    EngineError
    +-- RequestRejected        your request: it can never be served as it is
    |   +-- PromptTooLong
    |   +-- InvalidParams
    |   +-- KillsEngine        computing it has killed the engine, more than once
    +-- EngineUnavailable      we are unwell, or too busy: try again
        +-- QueueFull
        +-- EngineDown
        |   +-- EngineFailed   it refused to start, and will not be started again
        +-- RequestFailed      it was admitted, and then lost for good
"""

from __future__ import annotations


class EngineError(Exception):
    """The root. ``str()`` is one line for people: the rule, the limit and the value."""


class RequestRejected(EngineError):
    """The request breaks a rule. ``param`` names the field that does."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class PromptTooLong(RequestRejected):
    """The prompt leaves no room for a single new token."""


class InvalidParams(RequestRejected):
    """A value outside what this model allows, a token id beyond the vocabulary for one."""


class KillsEngine(RequestRejected):
    """The engine died of this very request, again when it ran alone.

    It is the request's error and not ours to be retried: clients repeat what failed with 503, and
    each time that would cost everybody a restart.
    """

    def __init__(self) -> None:
        super().__init__(
            "this request is refused: the engine process died each time that it was computed"
        )


class EngineUnavailable(EngineError):
    """Nothing is wrong with the request. ``retry_after_s`` says when to try again."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(EngineUnavailable):
    """More waits already than the queue may hold."""


class EngineDown(EngineUnavailable):
    """The engine is starting, restarting or stopped."""


class EngineFailed(EngineDown):
    """The engine refused to start; ``problems`` says why, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems), retry_after_s=60.0)
        self.problems = problems


class RequestFailed(EngineUnavailable):
    """An admitted request that cannot be finished."""
