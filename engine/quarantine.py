"""Quarantine: requests that killed the engine, known by a fingerprint and not let in again."""

from __future__ import annotations

import hashlib

import msgspec

from engine.errors import KillsEngine
from engine.request import Request

MAX_FINGERPRINTS = 1_024


def fingerprint(request: Request, *, has_seed: bool) -> bytes:
    """What a request computes: its ids, parameters and task, and with ``has_seed`` its draws too.

    Seed and choice have no say in what happens before the first draw.
    """
    params = request.params
    if not has_seed:
        params = msgspec.structs.replace(params, seed=0, choice_index=0)
    known = (has_seed, request.prompt_ids, params, request.task)
    return hashlib.sha256(msgspec.msgpack.encode(known)).digest()


class Quarantine:
    """Holds the last ``max_fingerprints`` of them, for the life of this process."""

    def __init__(self, max_fingerprints: int = MAX_FINGERPRINTS) -> None:
        self._max_fingerprints = max_fingerprints
        self._fingerprints: dict[bytes, None] = {}  # in order, the oldest first

    def add(self, request: Request, num_drawn: int) -> None:
        """``request`` killed the engine when ``num_drawn`` tokens were there."""
        self._fingerprints[fingerprint(request, has_seed=num_drawn > 0)] = None
        if len(self._fingerprints) > self._max_fingerprints:
            del self._fingerprints[next(iter(self._fingerprints))]

    def holds(self, request: Request) -> bool:
        """Whether it would do so again."""
        return bool(self._fingerprints) and any(
            fingerprint(request, has_seed=has_seed) in self._fingerprints
            for has_seed in (False, True)
        )

    def check(self, request: Request) -> None:
        """Raise KillsEngine if ``request`` is held."""
        if self.holds(request):
            raise KillsEngine
