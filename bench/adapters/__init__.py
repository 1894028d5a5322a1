"""One module for each library, all of them measured through the same two calls."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from bench.timing import Timing


class Unavailable(Exception):
    """This library cannot run this checkpoint, or not at this precision."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What an adapter is made for.

    ``folder`` holds the checkpoint; copies in other formats go to ``scratch``. ``max_context``
    makes our slots shorter than the checkpoint's positions.
    """

    folder: Path
    scratch: Path
    precision: str
    num_threads: int
    max_streams: int
    max_context: int | None = None


class Adapter(Protocol):
    """A loaded network. Greedy, and no token ends a sequence early."""

    def prepare(self, num_streams: int, total_len: int) -> None:
        """Make room for the scenario that comes; not timed."""

    def generate(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> Timing:
        """Continue prompts of equal length, with all of them at once."""


def load(name: str, setting: Setting) -> Adapter:
    """The adapter ``bench/adapters/NAME.py``. Raises Unavailable, and EngineFailed from ours."""
    return cast("Adapter", importlib.import_module(f"bench.adapters.{name}").load(setting))
