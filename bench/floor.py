"""The floor: how fast this machine can read, and so how fast one stream can be at best."""

from __future__ import annotations

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_BUFFER_BYTES = 256 << 20  # far above any cache
_PASSES = 3


class ReadBandwidth:
    """Reads a buffer with the C library's ``memchr``, looking for a byte that is not in it.

    That reads every byte once, writes none, and leaves the interpreter's lock alone, so as many
    threads as are asked for read at once.
    """

    def __init__(self, num_threads: int, num_bytes: int = _BUFFER_BYTES) -> None:
        self._buffer = np.ones(num_bytes, dtype=np.uint8)
        self._share = num_bytes // num_threads
        self._num_threads = num_threads
        self._memchr = ctypes.CDLL(None).memchr
        self._memchr.restype = ctypes.c_void_p
        self._memchr.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)

    def measure(self) -> float:
        """Bytes a second; the best of a few passes."""
        address = self._buffer.ctypes.data
        starts = [address + index * self._share for index in range(self._num_threads)]
        with ThreadPoolExecutor(self._num_threads) as threads:
            list(threads.map(self._read, starts))  # the threads exist from here on
            return max(self._pass(threads, starts) for _ in range(_PASSES))

    def _pass(self, threads: ThreadPoolExecutor, starts: list[int]) -> float:
        started_s = time.perf_counter()
        list(threads.map(self._read, starts))
        return self._share * len(starts) / (time.perf_counter() - started_s)

    def _read(self, start: int) -> None:
        self._memchr(start, 0, self._share)
