"""What was promised and what was found, and how much trouble is made to find it."""

from __future__ import annotations

from dataclasses import dataclass

MAX_INTER_TOKEN_RATIO = 1.3
MAX_REFUSAL_S = 0.05
MAX_SLOPE_MB = 1.0
"""A minute, after the warm-up."""
SETTLE_S = 10.0
"""Until nothing runs any more; the promise is a step, and what is seen is a heartbeat old."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise: in words, what was found, and whether it was kept."""

    promise: str
    measured: str
    is_kept: bool


@dataclass(frozen=True, slots=True)
class Extent:
    """How much trouble is made. The promises are the same for any."""

    overload_rounds: int = 5
    overload_s: float = 4.0
    num_leaving: int = 500
    num_slow: int = 200
    num_disturbed: int = 24
    num_kills: int = 20
    hostile_rounds: int = 3
    soak_s: float = 600.0

    @classmethod
    def short(cls, soak_s: float) -> Extent:
        """For a check of every change: everything once, in three minutes and the soak."""
        return cls(
            overload_rounds=3,
            overload_s=3.0,
            num_leaving=200,
            num_slow=60,
            num_disturbed=12,
            num_kills=5,
            hostile_rounds=1,
            soak_s=soak_s,
        )
