"""Where device work is queued: a CUDA stream, or at once on a CPU.

Everything that touches the device goes through a Stream, in order. Nothing here is read back
before a Marker behind it has been waited for, so that a stream may be as late as it likes: tests
bring one that does nothing until somebody waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Work = Callable[[], None]


class Marker(Protocol):
    """A place in the stream."""

    @property
    def is_reached(self) -> bool:
        """Whether everything queued before it is done. Does not wait."""

    def wait(self) -> None:
        """Return when it is. Raises what the device reports for that work."""

    def since(self, earlier: Marker) -> float:
        """Seconds of the device between two reached markers of one stream."""


class Graph(Protocol):
    """Captured work. Addresses are fixed; what lies there may differ from replay to replay."""

    def replay(self) -> None:
        """Queue all of it."""


class Stream(Protocol):
    """A queue of device work."""

    @property
    def device(self) -> torch.device:
        """Where the work's tensors live."""

    def host_buffer(self, *shape: int) -> Tensor:
        """int32 memory of the host that the device reads and writes without a stop."""

    def run(self, work: Work) -> None:
        """Queue ``work`` once. It must not read anything back."""

    def join(self) -> None:
        """Come behind what was queued elsewhere: tensors made outside of ``run`` are ready."""

    def capture(self, work: Work) -> Graph:
        """A graph of ``work``, which has a fixed shape. Running ``work`` once must do no harm."""

    def mark(self) -> Marker:
        """A marker behind all that was queued."""


class EagerMarker:
    """Everything before it is done when it is made."""

    def __init__(self) -> None:
        self.made_s = time.perf_counter()

    @property
    def is_reached(self) -> bool:
        """See Marker."""
        return True

    def wait(self) -> None:
        """See Marker."""

    def since(self, earlier: Marker) -> float:
        """See Marker."""
        if not isinstance(earlier, EagerMarker):
            raise TypeError(f"{type(earlier).__name__} is no marker of this stream")
        return self.made_s - earlier.made_s


class EagerGraph:
    """Work that is done again at each replay."""

    def __init__(self, work: Work, run: Callable[[Work], None]) -> None:
        self._work = work
        self._run = run

    def replay(self) -> None:
        """See Graph."""
        self._run(self._work)


class EagerStream:
    """CPU tensors; work is done when it is queued."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def host_buffer(self, *shape: int) -> Tensor:
        """See Stream."""
        return torch.zeros(shape, dtype=torch.int32)

    def run(self, work: Work) -> None:
        """See Stream."""
        with torch.inference_mode():
            work()

    def join(self) -> None:
        """See Stream."""

    def capture(self, work: Work) -> Graph:
        """See Stream."""
        return EagerGraph(work, self.run)

    def mark(self) -> Marker:
        """See Stream."""
        return EagerMarker()
