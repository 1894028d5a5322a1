"""What training refuses."""

from __future__ import annotations

from collections.abc import Sequence


class TrainingError(ValueError):
    """A run that cannot start. ``problems`` lists every reason; the message joins them."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)
