"""What changes in the course of a run: the learning rate and the reach of attention."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """Linear warm-up and a cosine down to zero, over ``num_steps``; short windows first.

    Attention reaches ``short_window_len`` tokens in the first ``short_share`` of the steps, and
    ``window_len`` afterwards.
    """

    num_steps: int
    warmup_steps: int
    window_len: int
    short_window_len: int
    short_share: float

    def rate_at(self, step: int) -> float:
        """The share of the peak learning rate that ``step`` (counted from 0) uses."""
        warmup = min(self.warmup_steps, self.num_steps)
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, self.num_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * progress))

    @property
    def num_short_steps(self) -> int:
        """Steps with short windows, in whole groups that use up their stretches (Batches)."""
        group = self.window_len // self.short_window_len
        return int(self.num_steps * self.short_share) // group * group

    def window_len_at(self, step: int) -> int:
        """Tokens that attention reaches in ``step``."""
        return self.short_window_len if step < self.num_short_steps else self.window_len
