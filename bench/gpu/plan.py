"""What the report measures: on a card, or in tiny shapes on a CPU to try the script itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.shapes import SIZES
from engine.device.build import MakeDecoder
from engine.device.cuda import CudaStream
from engine.device.kernel_decoder import KernelDecoder
from engine.device.loader import Choice, decoder_maker
from engine.device.network import DTYPES
from engine.device.stream import EagerStream, Stream
from model.config import GPTConfig
from model.decoder import parameter_shapes
from model.kernels.gpu import reference
from model.kernels.gpu.decoder import GPUDecoder
from model.kernels.gpu.weights import Weights
from model.slot_cache import SlotCache

Row = Sequence[object]
HasTime = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Part:
    """One table, and its values for scripts."""

    heads: Sequence[str]
    rows: Sequence[Row]
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes and batches of a run. ``prompt_len`` of the requests that peers and servers get."""

    is_dry: bool
    scratch: Path
    sizes: tuple[str, ...] = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
    batches: tuple[int, ...] = (1, 8, 64, 256, 1_024)
    kernels: tuple[str, ...] = ("triton", "triton-fast", "torch")
    torch_batches: tuple[int, ...] = (1, 64)
    peer_batches: tuple[int, ...] = (1, 64, 256)
    context: int = 512
    num_steps: int = 48
    prompt_len: int = 448
    num_new: int = 128
    copy_bytes: int = 4 << 30
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where everything runs."""
        return torch.device("cpu" if self.is_dry else "cuda:0")

    @property
    def dtype(self) -> str:
        """Of weights, keys and values."""
        return "float32" if self.is_dry else "bfloat16"

    @property
    def main_config(self) -> GPTConfig:
        """The size that all but the sweep looks at."""
        return SIZES[self.sizes[0]]

    def stream(self) -> Stream:
        """A new one."""
        return EagerStream() if self.is_dry else CudaStream()

    def synchronize(self) -> None:
        """Wait for the device."""
        if not self.is_dry:
            torch.cuda.synchronize()

    def make_decoder(self, config: GPTConfig, kernels: str, num_rows: int) -> MakeDecoder:
        """Random weights in the decoder of this name; dry, kernels are their references."""
        tensors = random_weights(config, self.device)
        if not self.is_dry or kernels == "torch":
            choice = Choice(self.dtype, self.dtype, kernels, config.num_positions)
            return decoder_maker(config, tensors, choice, self.device)
        weights = Weights.from_tensors(config, tensors, DTYPES[self.dtype], self.device)

        def make(cache: SlotCache) -> KernelDecoder:
            decoder = GPUDecoder(config, weights, cache, reference, kernels == "triton")
            return KernelDecoder(decoder, max(num_rows, 16), 2_048)

        return make


def dry_plan(scratch: Path) -> Plan:
    """Everything once, in seconds."""
    return Plan(
        is_dry=True,
        scratch=scratch,
        sizes=("tiny",),
        batches=(1, 2),
        torch_batches=(1, 2),
        peer_batches=(1, 2),
        context=20,
        num_steps=4,
        prompt_len=12,
        num_new=24,
        copy_bytes=1 << 20,
    )


def random_weights(config: GPTConfig, device: torch.device) -> dict[str, Tensor]:
    """As bench.shapes.random_tensors, made where they are used."""
    generator = torch.Generator(device).manual_seed(0)
    tensors = {}
    for name, shape in parameter_shapes(config).items():
        is_matrix = ".c_" in name and name.endswith("weight")
        scale = shape[-1] ** -0.5 if is_matrix else 0.02
        tensor = torch.randn(shape, generator=generator, device=device) * scale
        tensors[name] = tensor + 1 if "ln_" in name and name.endswith("weight") else tensor
    return tensors


@contextmanager
def released(plan: Plan) -> Iterator[None]:
    """Gives memory back at the end, so that one part leaves the next all of it."""
    try:
        yield
    finally:
        if not plan.is_dry:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
