"""Small random models, rows and buffers for the GPU kernels, poisoned where nobody may read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import ModuleType
from typing import cast

import torch
from torch import Tensor

from model.attention import Span
from model.config import GPTConfig
from model.decoder import GPT
from model.kernels.gpu.buffers import Chosen, Draws, Filters, Linear, Norm, Rows, Workspace
from model.kernels.gpu.decoder import GPUDecoder
from model.kernels.gpu.operations import Operations
from model.kernels.gpu.weights import Weights
from model.network import positions
from model.slot_cache import SlotCache

NUM_SLOTS = 5
DEVICE = "cuda" if os.environ.get("TRITON_INTERPRET") == "0" else "cpu"
"""Where the kernels run: compiled on a GPU, or in Triton's interpreter."""


def operations(module: ModuleType) -> Operations:
    """A module as the protocol that it keeps."""
    return cast(Operations, module)


def small_config(num_layers: int = 2, head_len: int = 16, **options: object) -> GPTConfig:
    """No size is a multiple of a tile, and a slot has three splits of keys."""
    sizes: dict[str, object] = {
        "vocab_size": 83,
        "num_positions": 300,
        "num_channels": 3 * head_len,
        "num_layers": num_layers,
        "num_heads": 3,
        "num_inner": 72,
    }
    return GPTConfig(**{**sizes, **options})  # type: ignore[arg-type]


def random_tensors(config: GPTConfig, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    """Parameters by name, float32 numbers that ``dtype`` can hold."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    tensors = {}
    for name, parameter in GPT.on_meta(config).named_parameters():
        numbers = torch.randn(parameter.shape, generator=generator) * 0.2
        is_gain = "ln_" in name and name.endswith("weight")
        tensors[name] = (numbers + is_gain).to(dtype).float()
    return tensors


def poisoned_cache(config: GPTConfig, dtype: torch.dtype) -> SlotCache:
    cache = SlotCache(config, NUM_SLOTS, dtype=dtype, device=DEVICE)
    for slot in range(NUM_SLOTS):
        cache.poison(slot)
    return cache


def random_decoder(
    config: GPTConfig,
    module: ModuleType,
    dtype: torch.dtype = torch.float32,
    *,
    is_strict: bool = True,
) -> GPUDecoder:
    weights = Weights.from_tensors(config, random_tensors(config, dtype), dtype, DEVICE)
    cache = poisoned_cache(config, dtype)
    return GPUDecoder(config, weights, cache, operations(module), is_strict)


def poisoned_workspace(config: GPTConfig, num_rows: int, dtype: torch.dtype) -> Workspace:
    """What an operation did not write is NaN for the next."""
    work = Workspace.allocate(config, num_rows, config.num_positions, dtype, DEVICE)
    for tensor in (
        work.streams,
        work.partials,
        work.added,
        work.normed,
        work.wide,
        work.queries,
        work.attended,
        work.hidden,
        work.splits.sums,
        work.splits.stats,
    ):
        tensor.fill_(float("nan"))
    return work


def rows_of(ids: Sequence[int], spans: Sequence[Span]) -> Rows:
    """The tokens of ``spans``, one after the other."""
    slots = [span.slot for span in spans for _ in range(span.length)]
    return Rows(ints(ids), ints(slots), positions(spans).int())


def ints(numbers: Sequence[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def random_linear(num_outputs: int, num_inputs: int, dtype: torch.dtype) -> Linear:
    bias = torch.randn(num_outputs)
    return Linear(torch.randn(num_outputs, num_inputs).to(dtype), bias, bias.to(dtype))


def random_norm(num_channels: int) -> Norm:
    return Norm(torch.rand(num_channels) + 0.5, torch.randn(num_channels), 1e-5)


def random_draws(num_rows: int, temperature: float = 1.0, seed: int = 0) -> Draws:
    """Every other row greedy if there are several."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    temperatures = torch.full((num_rows,), temperature)
    temperatures[1::2] = 0
    limit = 2**62
    return Draws(
        temperatures,
        torch.randint(-limit, limit, (num_rows,), generator=generator),
        torch.arange(num_rows, dtype=torch.int32) % 3,
        torch.randint(1024, (num_rows,), generator=generator).int(),
    )


def open_filters(num_rows: int, vocab_size: int, history_len: int = 40) -> Filters:
    """Filters that let everything pass, over a history of random tokens with nothing known."""
    ones, zeros = torch.ones(num_rows), torch.zeros(num_rows)
    generator = torch.Generator(DEVICE).manual_seed(1)
    return Filters(
        top_k=zeros.int(),
        top_p=ones.double(),
        min_p=zeros.double(),
        repetition=ones.clone(),
        presence=zeros.clone(),
        frequency=zeros.clone(),
        history=torch.randint(vocab_size, (NUM_SLOTS, history_len), generator=generator).int(),
        slots=torch.arange(num_rows, dtype=torch.int32) % NUM_SLOTS,
        prompt_lens=zeros.int(),
        lens=zeros.int(),
        bias_ids=torch.full((num_rows, 3), -1, dtype=torch.int32),
        biases=torch.zeros(num_rows, 3),
        banned_ids=torch.full((num_rows, 2), -1, dtype=torch.int32),
        num_top=zeros.int(),
    )


def empty_chosen(num_rows: int, vocab_size: int, num_top: int = 4) -> Chosen:
    return Chosen.allocate(num_rows, vocab_size, num_top, DEVICE)
