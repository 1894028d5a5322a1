"""Compiles every kernel as a decoder launches it, for an H100 or H200, on a machine without one.

The interpreter knows nothing of types and constants that the compiler refuses. Run as a program,
because Triton must be imported without its interpreter; prints a line for each compilation.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from triton import JITFunction
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from model.attention import Span
from model.config import ACTIVATIONS, PRESETS, GPTConfig
from model.decoder import parameter_shapes
from model.kernels.gpu import launch
from model.kernels.gpu.buffers import QueryTiles, TileBest, Workspace
from model.kernels.gpu.decoder import GPUDecoder, query_tiles
from model.kernels.gpu.weights import Weights
from model.slot_cache import SlotCache
from tests.support.gpu_cases import (
    empty_chosen,
    ints,
    open_filters,
    operations,
    random_draws,
    rows_of,
)

CARD = GPUTarget("cuda", 90, 32)
MOST_SHARED_BYTES = 227 * 1024
"""Shared memory of a multiprocessor that one program may have."""

_run = JITFunction.run


def compile_only(self: Any, *args: Any, grid: tuple[int, ...], warmup: bool, **options: Any) -> Any:
    """In place of a launch."""
    kernel = _run(self, *args, grid=grid, warmup=True, **options)
    assert all(count > 0 for count in grid), (self.__name__, grid)
    assert kernel.metadata.shared <= MOST_SHARED_BYTES, (self.__name__, kernel.metadata.shared)
    print(self.__name__, kernel.metadata.num_warps, kernel.metadata.shared)
    return kernel


def launch_everything(
    config: GPTConfig, dtype: torch.dtype, num_rows: int, *, is_strict: bool
) -> None:
    """A decode step, a prefill chunk, and both ways to a token."""
    tensors = {name: torch.empty(shape) for name, shape in parameter_shapes(config).items()}
    weights = Weights.from_tensors(config, tensors, dtype, "cpu")
    decoder = GPUDecoder(
        config, weights, SlotCache(config, 2, dtype=dtype), operations(launch), is_strict
    )
    work = Workspace.allocate(config, num_rows, config.num_positions, dtype, "cpu")
    spans = [Span(0, 0, num_rows)]
    rows = rows_of([0] * num_rows, spans)
    tiles = QueryTiles(query_tiles(spans, num_rows // 16 + 1))
    hidden = decoder.prefill(rows, tiles, ints([num_rows - 1]), work)
    hidden = decoder.decode(rows, work)
    best = TileBest.allocate(num_rows, config.vocab_size, config.num_channels, dtype, "cpu")
    draws = random_draws(num_rows)
    chosen = empty_chosen(num_rows, config.vocab_size, num_top=20)
    decoder.draw(hidden, draws, best, chosen.ids)
    logits = torch.empty(num_rows, config.vocab_size)
    decoder.logits(hidden, logits)
    decoder.sample(logits, draws, open_filters(num_rows, config.vocab_size), chosen)


def main(names: list[str]) -> None:
    """``names`` are those of released sizes; float32 is compiled for the first alone."""
    fake: Any = SimpleNamespace(
        get_current_device=lambda: 0,
        get_current_stream=lambda _device: 0,
        get_current_target=lambda: CARD,
    )
    driver.set_active(fake)
    with mock.patch.object(JITFunction, "run", compile_only), torch.inference_mode():
        for name in names:
            sizes = {**PRESETS[name].to_dict(), "num_layers": 2, "vocab_size": 5000}
            config = GPTConfig.from_dict(sizes)
            launch_everything(config, torch.bfloat16, 3, is_strict=True)
            launch_everything(config, torch.bfloat16, 64, is_strict=False)
            if name == names[0]:
                launch_everything(config, torch.float32, 3, is_strict=True)
                for activation in ACTIVATIONS:
                    launch.activate(torch.empty(4, 8, dtype=torch.float16), activation)


if __name__ == "__main__":
    main(sys.argv[1:])
