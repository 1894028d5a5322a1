"""The native CPU kernels through ctypes, and which of their paths this processor can run.

The shared library is built with the package where a compiler is there. It takes its OpenMP
symbols from torch, so torch is imported first and both use one thread pool.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor

from model.attention import SlotAttention, Span, score_scale
from model.config import GPTConfig
from model.slot_cache import SlotCache

PATHS = {"plain": 1, "avx2": 2, "avx512": 4}
"""Instruction sets by name, worst first; the values are the library's own bits."""

LANES = 16
"""``head_len`` must be a multiple of this for the native attention."""


class _Task(ctypes.Structure):
    _fields_ = (
        ("query", ctypes.c_void_p),
        ("key", ctypes.c_void_p),
        ("value", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("token_stride", ctypes.c_int64),
        ("num_heads", ctypes.c_int32),
        ("head_len", ctypes.c_int32),
        ("num_positions", ctypes.c_int32),
        ("scale", ctypes.c_float),
    )


class NativeKernels:
    """One loaded library with one of its paths chosen."""

    def __init__(self, library: ctypes.CDLL, path: str) -> None:
        self.path = path
        self._bit = PATHS[path]
        self._attention = library.gpt2_attention
        self._attention.argtypes = (
            ctypes.c_int,
            ctypes.POINTER(_Task),
            ctypes.c_void_p,
            ctypes.c_int64,
        )
        self._attention.restype = None

    def attention(
        self, qkv: Tensor, cache: SlotCache, layer: int, spans: Tensor, scale: float
    ) -> Tensor:
        """Write keys and values, and attend. ``qkv`` (N, 3C) float32 -> (N, C).

        ``spans`` is (rows, 4), int64: slot, start, length, first token.
        """
        num_channels = qkv.shape[1] // 3
        out = qkv.new_empty(qkv.shape[0], num_channels)
        slots = cache.data[layer]
        query, key, value = (
            qkv.data_ptr() + part * num_channels * qkv.element_size() for part in range(3)
        )
        task = _Task(
            query=query,
            key=key,
            value=value,
            out=out.data_ptr(),
            keys=slots[0].data_ptr(),
            values=slots[1].data_ptr(),
            token_stride=qkv.stride(0),
            num_heads=slots.shape[2],
            head_len=slots.shape[4],
            num_positions=slots.shape[3],
            scale=scale,
        )
        self._attention(self._bit, ctypes.byref(task), spans.data_ptr(), len(spans))
        return out


def load(path: str | None = None) -> NativeKernels | None:
    """The kernels with the best path this processor has, or the one asked for.

    None where the library was not built, or the processor lacks ``path``.
    """
    spec = importlib.util.find_spec("model.kernels._native")
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
    except OSError:  # built for another machine, or torch brings no OpenMP here
        return None
    available = library.gpt2_available_paths()
    chosen = path or next(name for name in reversed(PATHS) if available & PATHS[name])
    return NativeKernels(library, chosen) if available & PATHS[chosen] else None


class NativeSlotAttention:
    """What SlotAttention does, natively. Takes the same spans; the cache must be float32."""

    def __init__(
        self, config: GPTConfig, cache: SlotCache, spans: Sequence[Span], kernels: NativeKernels
    ) -> None:
        self._config = config
        self._cache = cache
        self._kernels = kernels
        lines, first = [], 0
        for span in spans:
            lines.append((span.slot, span.start, span.length, first))
            first += span.length
        self._spans = torch.tensor(lines, dtype=torch.int64)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(N, C) -> (N, C); the rows of the step follow each other along N."""
        qkv = torch.cat((query, key, value), dim=1).float()
        scale = score_scale(self._config, layer)
        return self._kernels.attention(qkv, self._cache, layer, self._spans, scale)


class AttentionFactory:
    """Makes each step's ``Attend``: native where it can be, else the reference."""

    def __init__(self, config: GPTConfig, cache: SlotCache, kernels: NativeKernels | None) -> None:
        self._config = config
        self._cache = cache
        is_native = cache.data.dtype == torch.float32 and config.head_len % LANES == 0
        self._kernels = kernels if is_native else None

    @property
    def path(self) -> str:
        """The path taken: ``torch`` for the reference."""
        return self._kernels.path if self._kernels else "torch"

    def __call__(self, spans: Sequence[Span]) -> SlotAttention | NativeSlotAttention:
        """Attention for one step's rows."""
        if self._kernels is None:
            return SlotAttention(self._config, self._cache, spans)
        return NativeSlotAttention(self._config, self._cache, spans, self._kernels)
