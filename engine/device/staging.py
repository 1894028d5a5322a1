"""Staging: numbers of the host on their way to the device, through one pinned buffer."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.device.stream import Marker, Stream

HALF_WORDS = 1 << 17
"""Half a megabyte: some hundred prefills pass before a half is used again."""

Words = NDArray[np.int32]


class Staging:
    """A pinned buffer in two halves.

    A half is written again only when the device has passed the last copy out of it.
    """

    def __init__(self, stream: Stream, half_words: int = HALF_WORDS) -> None:
        self._stream = stream
        self._half_words = half_words
        self._host = stream.host_buffer(2 * half_words)
        self._view: Words = self._host.numpy()
        self._half = 0
        self._used = 0
        self._left: list[Marker | None] = [None, None]

    def send(self, target: Tensor, words: Words) -> None:
        """Queue a copy of ``words`` to the first of ``target``, contiguous int32 of the device."""
        count = len(words)
        if count > self._half_words:
            raise ValueError(f"at most {self._half_words} words go at once, got {count}")
        if self._used + count > self._half_words:
            self._turn()
        start = self._half * self._half_words + self._used
        self._used += count
        self._view[start : start + count] = words
        source = self._host[start : start + count]
        self._stream.run(partial(_copy, target.view(-1)[:count], source))

    def _turn(self) -> None:
        self._left[self._half] = self._stream.mark()
        self._half = 1 - self._half
        self._used = 0
        marker = self._left[self._half]
        if marker is not None:
            marker.wait()


def _copy(target: Tensor, source: Tensor) -> None:
    target.copy_(source, non_blocking=True)
