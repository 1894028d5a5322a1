"""Reference attention over slots: right, and the same bits whatever the chunk or neighbour."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from model.attention import CausalAttention, SlotAttention, Span, score_scale
from model.config import GPTConfig
from model.decoder import Attend
from model.kernels import native
from model.kernels.native import AttentionFactory
from model.slot_cache import SlotCache

CONFIG = GPTConfig(10, 512, 128, 2, 2, 512)
NUM_TOKENS = 400


@pytest.fixture(params=["torch", *native.PATHS])
def path(request: pytest.FixtureRequest) -> str:
    """Every path; those that this machine lacks are skipped."""
    name: str = request.param
    if name != "torch" and native.load(name) is None:
        pytest.skip(f"no {name} kernels on this machine")
    return name


def attention(path: str, cache: SlotCache, spans: list[Span]) -> Attend:
    kernels = None if path == "torch" else native.load(path)
    factory = AttentionFactory(CONFIG, cache, kernels)
    assert factory.path == path
    return factory(spans)


def random_qkv(num_tokens: int = NUM_TOKENS) -> list[torch.Tensor]:
    return [torch.randn(num_tokens, CONFIG.num_channels) for _ in range(3)]


def poisoned_cache(num_slots: int = 4) -> SlotCache:
    cache = SlotCache(CONFIG, num_slots)
    for slot in range(num_slots):
        cache.poison(slot)
    return cache


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
def test_slots_agree_with_whole_window_attention(path: str, num_tokens: int) -> None:
    qkv = random_qkv(num_tokens)
    expected = CausalAttention(CONFIG, num_tokens)(1, *qkv)
    got = run(path, poisoned_cache(), 2, qkv, [num_tokens])
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
def test_bits_do_not_depend_on_the_chunks(path: str, cuts: list[int]) -> None:
    qkv = random_qkv()
    whole = run(path, poisoned_cache(), 0, qkv, [NUM_TOKENS])
    assert not whole.isnan().any()
    assert torch.equal(run(path, poisoned_cache(), 3, qkv, cuts), whole)


def test_bits_do_not_depend_on_neighbours(path: str) -> None:
    cache = poisoned_cache()
    rows = {slot: random_qkv(length) for slot, length in ((0, 1), (2, 90), (3, 7))}
    spans = [Span(slot, 0, len(qkv[0])) for slot, qkv in rows.items()]
    joined = [torch.cat([qkv[i] for qkv in rows.values()]) for i in range(3)]
    together = attention(path, cache, spans)(0, *joined)
    offset = 0
    for slot, qkv in rows.items():
        alone = attention(path, poisoned_cache(), [Span(slot, 0, len(qkv[0]))])(0, *qkv)
        assert torch.equal(together[offset : offset + len(qkv[0])], alone)
        offset += len(qkv[0])


def test_a_copied_prefix_gives_the_same_bits(path: str) -> None:
    cache = poisoned_cache()
    qkv = random_qkv()
    whole = run(path, cache, 0, qkv, [NUM_TOKENS])
    cache.copy_prefix(source=0, target=1, length=200)
    attend = attention(path, cache, [Span(1, 200, NUM_TOKENS - 200)])
    assert torch.equal(attend(1, *(x[200:] for x in qkv)), whole[200:])


def test_nothing_beyond_the_written_positions_is_read_or_changed(path: str) -> None:
    cache = poisoned_cache()
    run(path, cache, 1, random_qkv(), [50])
    assert not cache.data[1, :, 1, :, :50].isnan().any()
    assert cache.data[1, :, 1, :, 50:].isnan().all()
    assert cache.data[1, :, 0].isnan().all()
    assert cache.data[0].isnan().all()


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
    assert cache.data.nbytes == 2 * CONFIG.slot_bytes(4, 100)
