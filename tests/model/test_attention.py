"""Reference attention over slots: right, and the same bits whatever the chunk or neighbour."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from engine.networks import slot_bytes
from model.attention import CausalAttention, SlotAttention, Span, score_scale
from model.config import GPTConfig
from model.decoder import Attend
from model.kernels import native
from model.slot_cache import SlotCache
from tests.support.attention import attend_by, cache_for, kernels_for

CONFIG = GPTConfig(10, 512, 128, 2, 2, 512)
NUM_TOKENS = 400


@pytest.fixture(params=["torch", *native.PATHS])
def path(request: pytest.FixtureRequest) -> str:
    """Every path; those that this machine lacks are skipped."""
    name: str = request.param
    kernels_for(name)
    return name


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.int8], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """What the cache is rounded to."""
    found: torch.dtype = request.param
    return found


def attention(path: str, cache: SlotCache, spans: list[Span]) -> Attend:
    return attend_by(path, CONFIG, cache, spans)


def random_qkv(num_tokens: int = NUM_TOKENS) -> list[torch.Tensor]:
    return [torch.randn(num_tokens, CONFIG.num_channels) for _ in range(3)]


def rounded_to(dtype: torch.dtype, x: torch.Tensor) -> torch.Tensor:
    """What a cache keeps of keys or values (N, C): int8 has one scale a head."""
    if dtype != torch.int8:
        return x.to(dtype).float()
    heads = x.reshape(len(x), CONFIG.num_heads, -1)  # (N, C) -> (N, H, D)
    amax = heads.abs().amax(-1, keepdim=True)
    return ((heads * (torch.full_like(amax, 127.0) / amax)).round() * (amax / 127)).reshape(x.shape)


def poisoned_cache(path: str, num_slots: int = 4, dtype: torch.dtype = torch.float32) -> SlotCache:
    return cache_for(path, CONFIG, num_slots, dtype)


def run(
    path: str, cache: SlotCache, slot: int, qkv: list[torch.Tensor], cuts: list[int]
) -> torch.Tensor:
    """Attend chunk by chunk, the chunks ending at ``cuts``."""
    out, start = [], 0
    for end in cuts:
        attend = attention(path, cache, [Span(slot, start, end - start)])
        out.append(attend(1, *(x[start:end] for x in qkv)))
        start = end
    return torch.cat(out)


@pytest.mark.parametrize("num_tokens", [1, 2, 5, 127, 128, 129, 400])
def test_slots_agree_with_whole_window_attention(
    path: str, num_tokens: int, dtype: torch.dtype
) -> None:
    query, key, value = random_qkv(num_tokens)
    rounded = [rounded_to(dtype, x) for x in (key, value)]
    expected = CausalAttention(CONFIG, num_tokens)(1, query, *rounded)
    got = run(path, poisoned_cache(path, dtype=dtype), 2, [query, key, value], [num_tokens])
    assert (got - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    "cuts",
    [
        list(range(1, NUM_TOKENS + 1)),
        [1, 2, 3, 4, 5, 100, NUM_TOKENS],
        [128, 256, NUM_TOKENS],
        [127, 129, 255, 300, 301, NUM_TOKENS],
    ],
    ids=["one by one", "small first", "at tiles", "across tiles"],
)
def test_bits_do_not_depend_on_the_chunks(path: str, cuts: list[int], dtype: torch.dtype) -> None:
    qkv = random_qkv()
    whole = run(path, poisoned_cache(path, dtype=dtype), 0, qkv, [NUM_TOKENS])
    assert not whole.isnan().any()
    assert torch.equal(run(path, poisoned_cache(path, dtype=dtype), 3, qkv, cuts), whole)


def test_bits_do_not_depend_on_neighbours(path: str) -> None:
    cache = poisoned_cache(path)
    rows = {slot: random_qkv(length) for slot, length in ((0, 1), (2, 90), (3, 7))}
    spans = [Span(slot, 0, len(qkv[0])) for slot, qkv in rows.items()]
    joined = [torch.cat([qkv[i] for qkv in rows.values()]) for i in range(3)]
    together = attention(path, cache, spans)(0, *joined)
    offset = 0
    for slot, qkv in rows.items():
        alone = attention(path, poisoned_cache(path), [Span(slot, 0, len(qkv[0]))])(0, *qkv)
        assert torch.equal(together[offset : offset + len(qkv[0])], alone)
        offset += len(qkv[0])


def test_a_copied_prefix_gives_the_same_bits(path: str) -> None:
    cache = poisoned_cache(path)
    qkv = random_qkv()
    whole = run(path, cache, 0, qkv, [NUM_TOKENS])
    cache.copy_prefix(source=0, target=1, length=200)
    attend = attention(path, cache, [Span(1, 200, NUM_TOKENS - 200)])
    assert torch.equal(attend(1, *(x[200:] for x in qkv)), whole[200:])


def test_nothing_beyond_the_written_positions_is_read_or_changed(path: str) -> None:
    cache = poisoned_cache(path)
    run(path, cache, 1, random_qkv(), [50])
    written = torch.stack(cache.view(1, 1, CONFIG.num_positions))  # (2, H, T, D)
    assert not written[:, :, :50].isnan().any()
    assert written[:, :, 50:].isnan().all()
    for part in (cache.keys, cache.values):
        assert part[1, 0].isnan().all()
        assert part[0].isnan().all()


@pytest.mark.parametrize("key_tile", [1, 16])
def test_what_is_written_is_viewed_and_copied(key_tile: int) -> None:
    cache = SlotCache(CONFIG, 3, num_positions=40, key_tile=key_tile)
    for slot in range(3):
        cache.poison(slot)
    key, value = (torch.randn(30, CONFIG.num_heads, CONFIG.head_len) for _ in range(2))
    cache.write(1, 2, 5, key, value)
    for got, given in zip(cache.view(1, 2, 35), (key, value), strict=True):
        assert torch.equal(got[:, 5:], given.transpose(0, 1))
        assert got[:, :5].isnan().all()
    cache.copy_prefix(2, 0, 21)
    for got, given in zip(cache.view(1, 0, 21), (key, value), strict=True):
        assert torch.equal(got[:, 5:], given[:16].transpose(0, 1))
    cache.poison(2, 18)
    for got in cache.view(1, 2, 40):
        assert not got[:, 5:18].isnan().any()
        assert got[:, 18:].isnan().all()


def test_int8_is_written_as_the_reference_does(path: str) -> None:
    query, key, value = random_qkv(50)
    key[7] = 0
    cache = poisoned_cache(path, dtype=torch.int8)
    attention(path, cache, [Span(2, 0, 50)])(1, query, key, value)
    reference = SlotCache(CONFIG, 1, dtype=torch.int8)
    heads = [x.reshape(50, CONFIG.num_heads, -1) for x in (key, value)]
    reference.write(1, 0, 0, *heads)
    for got, expected, given in zip(
        cache.view(1, 2, 50), reference.view(1, 0, 50), heads, strict=True
    ):
        assert torch.equal(got, expected)
        error = (got.transpose(0, 1) - given).abs()  # (N, H, D)
        assert (error <= given.abs().amax(-1, keepdim=True) / 254 * 1.001).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_int8_hides_neither_nan_nor_infinity(path: str, bad: float) -> None:
    query, key, value = random_qkv(20)
    value[3, 5] = bad
    cache = poisoned_cache(path, dtype=torch.int8)
    out = attention(path, cache, [Span(0, 0, 20)])(0, query, key, value)
    assert not out[3:, 5].isfinite().any()


def test_int8_copies_and_poisons_with_its_scales() -> None:
    cache = SlotCache(CONFIG, 3, num_positions=40, dtype=torch.int8, key_tile=16)
    for slot in range(3):
        cache.poison(slot)
    key, value = (torch.randn(30, CONFIG.num_heads, CONFIG.head_len) for _ in range(2))
    cache.write(1, 2, 0, key, value)
    cache.copy_prefix(2, 0, 21)
    for got, source in zip(cache.view(1, 0, 40), cache.view(1, 2, 40), strict=True):
        assert torch.equal(got[:, :21], source[:, :21])
        assert got[:, 21:].isnan().all()
    cache.poison(2, 18)
    assert all(part[:, 18:].isnan().all() for part in cache.view(1, 2, 40))


@pytest.mark.parametrize("option", ["is_attention_scaled", "is_attention_layer_scaled"])
def test_whole_windows_scale_scores_as_slots_do(option: str) -> None:
    changes: dict[str, Any] = {option: option == "is_attention_layer_scaled"}
    config = dataclasses.replace(CONFIG, **changes)
    qkv = [x / 4 for x in random_qkv(9)]
    slots = SlotAttention(config, SlotCache(config, 1), [Span(0, 0, 9)])(1, *qkv)
    assert (CausalAttention(config, 9)(1, *qkv) - slots).abs().max() < 1e-5
    assert (CausalAttention(CONFIG, 9)(1, *qkv) - slots).abs().max() > 1e-3


def test_variants_scale_scores_as_upstream_does() -> None:
    plain = GPTConfig(num_heads=12)
    assert score_scale(plain, 5) == pytest.approx(1 / 8)
    assert score_scale(GPTConfig(is_attention_scaled=False), 5) == 1
    both = GPTConfig(is_attention_layer_scaled=True)
    assert score_scale(both, 5) == pytest.approx(1 / 8 / 6)


def test_a_shorter_context_takes_less_memory() -> None:
    cache = SlotCache(CONFIG, 2, num_positions=100)
    assert cache.keys.nbytes + cache.values.nbytes == 2 * CONFIG.slot_bytes(4, 100)


def test_int8_takes_a_quarter_and_its_scales() -> None:
    cache = SlotCache(CONFIG, 2, num_positions=100, dtype=torch.int8)
    parts = (cache.keys, cache.values, cache.key_scales, cache.value_scales)
    assert sum(part.nbytes for part in parts if part is not None) == 2 * slot_bytes(
        CONFIG, "int8", 100
    )
