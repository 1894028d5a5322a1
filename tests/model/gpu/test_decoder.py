"""The whole decoder against TorchNetwork, and its bits in any company."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from model.attention import Span
from model.config import GPTConfig
from model.kernels.gpu import decoder as gpu_decoder
from model.kernels.gpu import launch, reference
from model.kernels.gpu.buffers import QueryTiles
from model.kernels.gpu.decoder import GPUDecoder, query_tiles
from model.kernels.gpu.tiles import MANY_ROWS
from model.network import TorchNetwork, gpt_with
from model.slot_cache import SlotCache
from tests.support.gpu_cases import (
    DEVICE,
    NUM_SLOTS,
    ints,
    poisoned_workspace,
    random_decoder,
    random_tensors,
    rows_of,
    small_config,
)

MODULES = pytest.mark.parametrize("module", [launch, reference], ids=["kernel", "torch"])


def prefill(
    decoder: GPUDecoder, ids: list[int], spans: list[Span], wanted: list[int], padding: int = 0
) -> Tensor:
    """Padded by rows of the last slot, as a graph of a bucket would be."""
    spans = [*spans, *[Span(NUM_SLOTS - 1, 0, 1)] * padding]
    dtype = decoder.weights.lm_head.dtype
    work = poisoned_workspace(decoder.config, len(ids) + padding, dtype)
    rows = rows_of([*ids, *[0] * padding], spans)
    tiles = QueryTiles(query_tiles(spans, 2 * len(spans) + len(ids) // 16))
    return decoder.prefill(rows, tiles, ints(wanted), work).clone()


def decode(decoder: GPUDecoder, ids: list[int], spans: list[Span], padding: int = 0) -> Tensor:
    spans = [*spans, *[Span(NUM_SLOTS - 1, 0, 1)] * padding]
    dtype = decoder.weights.lm_head.dtype
    work = poisoned_workspace(decoder.config, len(ids) + padding + 1, dtype)
    hidden = decoder.decode(rows_of([*ids, *[0] * padding], spans), work)
    return hidden[: len(ids)].clone()


def oracle(config: GPTConfig, dtype: torch.dtype) -> TorchNetwork:
    """In float32, over numbers that ``dtype`` holds."""
    gpt = gpt_with(config, random_tensors(config, dtype))
    return TorchNetwork(gpt, SlotCache(config, NUM_SLOTS, device=DEVICE))


def is_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert ((found - expected).norm() / expected.norm()).item() < tolerance


@MODULES
@pytest.mark.parametrize(
    ("config", "dtype", "tolerance"),
    [
        (small_config(1, head_len=64), torch.float32, 1e-5),
        (small_config(3, is_attention_layer_scaled=True), torch.float32, 1e-5),
        (small_config(1, activation="relu", is_head_tied=False), torch.float32, 1e-5),
        (small_config(1, head_len=20, is_attention_scaled=False), torch.float32, 1e-5),
        (small_config(2), torch.bfloat16, 1e-2),
        (small_config(1, head_len=64), torch.float16, 5e-3),
    ],
    ids=str,
)
def test_hidden_states_and_logits_are_those_of_the_plain_network(
    module: ModuleType, config: GPTConfig, dtype: torch.dtype, tolerance: float
) -> None:
    """Two sequences prefilled together, then decoded together, one step past a split of keys."""
    decoder, plain = random_decoder(config, module, dtype), oracle(config, dtype)
    spans = [Span(3, 0, 5), Span(1, 0, 19)]
    ids = torch.randint(config.vocab_size, (24,)).tolist()
    wanted = [4, 11, 23]
    found, expected = prefill(decoder, ids, spans, wanted), plain.hidden(ids, spans, wanted)
    is_close(found, expected, tolerance)
    steps = [Span(1, 19, 1), Span(3, 5, 1)]
    found, expected = decode(decoder, [7, 8], steps, 1), plain.hidden([7, 8], steps, [0, 1])
    is_close(found, expected, tolerance)
    logits = torch.full((2, config.vocab_size), float("nan"))
    decoder.logits(found, logits)
    is_close(logits, plain.logits(expected), 2 * tolerance)


def filled(decoder: GPUDecoder, lens: dict[int, int]) -> GPUDecoder:
    """Slots that hold random keys and values up to their lengths, the same for each decoder."""
    generator = torch.Generator(DEVICE).manual_seed(9)
    for slot, length in lens.items():
        for tensor in (decoder.cache.keys, decoder.cache.values):
            shape = tensor[:, slot, :, :length].shape
            tensor[:, slot, :, :length] = torch.randn(shape, generator=generator).to(tensor.dtype)
    return decoder


@MODULES
def test_decoding_over_three_splits_of_keys(module: ModuleType) -> None:
    config = small_config(1)
    decoder, plain = random_decoder(config, module), oracle(config, torch.float32)
    filled(decoder, {0: 299, 2: 128})
    for slot in (0, 2):
        plain._cache.keys[:, slot] = decoder.cache.keys[:, slot]
        plain._cache.values[:, slot] = decoder.cache.values[:, slot]
    steps = [Span(0, 299, 1), Span(2, 128, 1)]
    is_close(decode(decoder, [5, 6], steps), plain.hidden([5, 6], steps, [0, 1]), 1e-5)


@pytest.mark.usefixtures("independent_rows")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_decoded_rows_bits_are_the_same_in_every_bucket_and_slot(dtype: torch.dtype) -> None:
    """Also its key and value, which later steps read."""
    config = small_config(2)
    lens = {0: 130, 1: 130, 2: 40, 3: 3}
    results = []
    for company, slot, padding in (([], 0, 0), ([Span(2, 40, 1), Span(3, 3, 1)], 1, 15)):
        decoder = filled(random_decoder(config, launch, dtype), lens)
        for tensor in (decoder.cache.keys, decoder.cache.values):
            tensor[:, 1] = tensor[:, 0]
        spans = [*company, Span(slot, 130, 1)]
        hidden = decode(decoder, [*range(len(company)), 33], spans, padding)
        keys, values = decoder.cache.view(1, slot, 131)
        results.append((hidden[-1], keys.clone(), values.clone()))
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


@pytest.mark.usefixtures("independent_rows")
def test_a_chunked_prompt_has_the_bits_of_a_whole_one() -> None:
    config = small_config(2)
    ids = torch.randint(config.vocab_size, (33,)).tolist()
    whole = prefill(random_decoder(config, launch), ids, [Span(2, 0, 33)], [32])
    decoder = random_decoder(config, launch)
    prefill(decoder, ids[:23], [Span(0, 0, 23)], [22], padding=3)
    neighbour = prefill(decoder, [1] * 9 + ids[23:], [Span(1, 0, 9), Span(0, 23, 10)], [18])
    assert torch.equal(neighbour, whole)


@MODULES
def test_many_rows_by_the_matrix_library(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where strict bits are not asked for; the results are close all the same."""
    monkeypatch.setattr(gpu_decoder, "MANY_ROWS", 8)
    assert MANY_ROWS == 64
    config = small_config(2)
    calls: list[Any] = []
    product = torch.addmm

    def counted(*args: Any, **options: Any) -> None:
        calls.append(args)
        product(*args, **options)

    monkeypatch.setattr(torch, "addmm", counted)
    spans = [Span(1, 0, 11)]
    ids = torch.randint(config.vocab_size, (11,)).tolist()
    strict = prefill(random_decoder(config, module), ids, spans, [3, 10])
    assert not calls
    loose = random_decoder(config, module, is_strict=False)
    is_close(prefill(loose, ids, spans, [3, 10]), strict, 1e-5)
    assert len(calls) == 4 * config.num_layers
    loose_step = decode(loose, [3], [Span(1, 11, 1)])
    assert len(calls) == 4 * config.num_layers
    is_close(decode(loose, [3], [Span(1, 11, 1)], padding=9), loose_step, 1e-5)
    assert len(calls) == 8 * config.num_layers
