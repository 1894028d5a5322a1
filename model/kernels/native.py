"""The native CPU kernels through ctypes, and which of their paths this processor can run.

The shared library is built with the package where a compiler is there. It takes its OpenMP
symbols from torch, so torch is imported first and both use one thread pool.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.attention import Span
from model.kernels import structs
from model.kernels.packing import interleave
from model.quantised import CODEBOOK, Int8Matrix, QuantisedMatrix
from model.slot_cache import KEY_TILE, SlotCache

PATHS = {"plain": 1, "avx2": 2, "avx512vnni": 4, "avx512": 8}
"""Instruction sets by name, worst first; the values are the library's own bits. ``avx512`` has
bfloat16 products too."""

LANES = 16
"""``head_len`` must be a multiple of this for the native attention."""


@dataclass(frozen=True, slots=True)
class NativeMatrix:
    """A linear layer as the kernels read it; keeps what it points to alive."""

    struct: structs.Matrix
    packed: Tensor
    scales: Tensor | None
    bias: Tensor | None

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> NativeMatrix:
        """``weight`` (M, K) rounded to float32 or bfloat16; a line of bfloat16 holds pairs."""
        packed = interleave(weight.detach().to(dtype), 4 // dtype.itemsize)
        precision = str(dtype).removeprefix("torch.")
        return cls._make(packed, None, bias, precision, (weight.shape[0], weight.shape[1]))

    @classmethod
    def from_quantised(cls, matrix: QuantisedMatrix, bias: Tensor | None) -> NativeMatrix:
        """Points into ``matrix``, which may be memory-mapped."""
        precision = "int8" if isinstance(matrix, Int8Matrix) else "int4"
        shape = (matrix.num_outputs, matrix.num_inputs)
        return cls._make(matrix.packed, matrix.scales, bias, precision, shape)

    @classmethod
    def _make(
        cls,
        packed: Tensor,
        scales: Tensor | None,
        bias: Tensor | None,
        precision: str,
        shape: tuple[int, int],
    ) -> NativeMatrix:
        bias = None if bias is None else bias.detach().float().contiguous()
        struct = structs.Matrix(
            packed=packed.data_ptr(),
            scales=None if scales is None else scales.data_ptr(),
            bias=None if bias is None else bias.data_ptr(),
            precision=structs.PRECISIONS[precision],
            num_outputs=shape[0],
            num_inputs=shape[1],
        )
        return cls(struct, packed, scales, bias)


class NativeKernels:
    """One loaded library with one of its paths chosen."""

    def __init__(self, library: ctypes.CDLL, path: str) -> None:
        self.path = path
        self._bit = PATHS[path]
        self._library = library
        self._book = (ctypes.c_uint8 * 16)(*(value + 128 for value in CODEBOOK))
        library.gpt2_run_scratch.restype = ctypes.c_int64
        library.gpt2_linear_scratch.restype = ctypes.c_int64
        for name in ("gpt2_run", "gpt2_linear", "gpt2_rows", "gpt2_attention"):
            getattr(library, name).restype = None

    def linear(self, matrix: NativeMatrix, x: Tensor) -> Tensor:
        """(N, K) float32 -> (N, M) float32."""
        x = x.contiguous()
        num_rows, num_inputs = x.shape
        num_bytes = self._library.gpt2_linear_scratch(
            ctypes.c_int64(num_rows), ctypes.c_int64(num_inputs)
        )
        scratch = torch.empty(num_bytes, dtype=torch.uint8)
        out = torch.empty(num_rows, matrix.struct.num_outputs)
        self._library.gpt2_linear(
            self._bit,
            ctypes.byref(matrix.struct),
            self._book,
            ctypes.c_void_p(x.data_ptr()),
            ctypes.c_int64(num_rows),
            ctypes.c_void_p(out.data_ptr()),
            ctypes.c_int64(out.shape[1]),
            ctypes.c_void_p(scratch.data_ptr()),
        )
        return out

    def rows(self, matrix: NativeMatrix, ids: Tensor) -> Tensor:
        """Int8Matrix.rows: the weights of the outputs ``ids``, float32 (len(ids), K)."""
        out = torch.empty(len(ids), matrix.struct.num_inputs)
        ids = ids.to(torch.int64).contiguous()
        self._library.gpt2_rows(
            ctypes.byref(matrix.struct),
            ctypes.c_void_p(ids.data_ptr()),
            ctypes.c_int64(len(ids)),
            ctypes.c_void_p(out.data_ptr()),
        )
        return out

    def attention(
        self, qkv: Tensor, cache: SlotCache, layer: int, spans: Sequence[Span], scale: float
    ) -> Tensor:
        """Write keys and values, and attend. ``qkv`` (N, 3C) float32 -> (N, C)."""
        qkv = qkv.contiguous()
        out = torch.empty(qkv.shape[0], qkv.shape[1] // 3)
        lines = span_lines(spans)
        num_heads, head_len = cache.values.shape[2], cache.values.shape[4]
        self._library.gpt2_attention(
            self._bit,
            ctypes.byref(cache_struct(cache)),
            num_heads,
            head_len,
            ctypes.c_int64(layer),
            ctypes.c_float(scale),
            ctypes.c_void_p(qkv.data_ptr()),
            ctypes.c_void_p(out.data_ptr()),
            ctypes.c_void_p(lines.data_ptr()),
            ctypes.c_int64(len(spans)),
        )
        return out

    def scratch_bytes(self, decoder: structs.Decoder, num_tokens: int) -> int:
        """What :meth:`run` needs beside the step."""
        count: int = self._library.gpt2_run_scratch(
            ctypes.byref(decoder), ctypes.c_int64(num_tokens)
        )
        return count

    def run(self, decoder: structs.Decoder, cache: structs.Cache, step: structs.Step) -> None:
        """One pass through every layer."""
        self._library.gpt2_run(
            self._bit,
            ctypes.byref(decoder),
            ctypes.byref(cache),
            self._book,
            ctypes.byref(step),
        )


def span_lines(spans: Sequence[Span]) -> Tensor:
    """(rows, 4), int64: slot, start, length, first token along N."""
    lines, first = [], 0
    for span in spans:
        lines.append((span.slot, span.start, span.length, first))
        first += span.length
    return torch.tensor(lines, dtype=torch.int64)


def cache_struct(cache: SlotCache) -> structs.Cache:
    """The cache as the kernels see it. Raises ValueError for one of another layout."""
    if cache.key_tile != KEY_TILE:
        raise ValueError(f"key_tile must be {KEY_TILE}, got {cache.key_tile}")
    return structs.Cache(
        keys=cache.keys.data_ptr(),
        values=cache.values.data_ptr(),
        key_scales=None if cache.key_scales is None else cache.key_scales.data_ptr(),
        value_scales=None if cache.value_scales is None else cache.value_scales.data_ptr(),
        precision=structs.PRECISIONS[str(cache.dtype).removeprefix("torch.")],
        num_slots=cache.num_slots,
        num_positions=cache.values.shape[3],
    )


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


def available_paths() -> tuple[str, ...]:
    """What this processor can run, worst first; none where the library was not built."""
    return tuple(name for name in PATHS if load(name) is not None)
