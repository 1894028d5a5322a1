"""The native attention where scores are extreme, and which path is taken."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.attention import SlotAttention, Span
from model.config import GPTConfig
from model.decoder import Attend
from model.kernels import native
from model.slot_cache import SlotCache
from tests.support.attention import attend_by, cache_for, kernels_for

CONFIG = GPTConfig(10, 128, 128, 2, 2, 512)


def factory(path: str, config: GPTConfig = CONFIG) -> Callable[[list[Span]], Attend]:
    """Skips where this machine lacks the path."""
    kernels_for(path)
    return partial(attend_by, path, config, cache_for(path, config, 2))


def exact(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention in float64. (N, C) -> (N, C)."""
    heads = (x.double().view(-1, CONFIG.num_heads, CONFIG.head_len) for x in (query, key, value))
    q, k, v = (x.transpose(0, 1) for x in heads)  # (N, H, D) -> (H, N, D)
    scores = q @ k.transpose(1, 2) / CONFIG.head_len**0.5
    hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    out: Tensor = weights @ v
    return out.transpose(0, 1).flatten(1)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 30.0])
@pytest.mark.parametrize("path", ["torch", *native.PATHS])
def test_large_scores_agree_with_a_float64_softmax(path: str, scale: float) -> None:
    """Scores reach thousands of times the range of exp in float32."""
    torch.manual_seed(0)
    attention = factory(path)
    query, key, value = (torch.randn(70, 128) for _ in range(3))
    query, key = query * scale, key * scale
    got = attention([Span(1, 0, 70)])(0, query, key, value)
    assert (got - exact(query, key, value)).abs().max() < 2e-5 * max(1.0, scale**2 / 10)
    # Equal scores far below and far above 0 cancel out.
    for level in (-300.0, 300.0):
        query[:, 0] = query[:, 64] = level
        key[:, 0] = key[:, 64] = 30.0
        got = attention([Span(1, 0, 70)])(0, query, key, value)
        wanted = exact(query, key, value)
        assert got.isfinite().all()
        assert (got - wanted).abs().max() < 2e-3 * max(1.0, scale**2)


@pytest.mark.parametrize("gap", [0.5, 3.0, 20.0, 60.0, 86.0, 88.0, 100.0, 1e4])
@pytest.mark.parametrize("path", list(native.PATHS))
def test_weights_are_exponentials_of_the_difference(path: str, gap: float) -> None:
    """Two keys, the second ``gap`` below: channel 1 of the result is its weight."""
    attention = factory(path)
    query, key, value = (torch.zeros(2, 128) for _ in range(3))
    query[1, 0] = CONFIG.head_len**0.5
    key[1, 0] = -gap
    value[1, 1] = 1.0
    got = attention([Span(0, 0, 2)])(0, query, key, value)[1, 1].double()
    expected = torch.tensor([0.0, -gap], dtype=torch.float64).softmax(-1)[1]
    if gap < 87:  # smallest normal number of float32
        assert got.item() == pytest.approx(expected.item(), rel=1e-6)
    else:
        assert got == 0


@pytest.mark.parametrize("option", ["is_attention_scaled", "is_attention_layer_scaled"])
@pytest.mark.parametrize("path", list(native.PATHS))
def test_variants_scale_as_the_reference_does(path: str, option: str) -> None:
    changed: dict[str, Any] = {option: option == "is_attention_layer_scaled"}
    config = dataclasses.replace(CONFIG, **changed)
    spans = [Span(1, 0, 9)]
    qkv = [torch.randn(9, 128) / 3 for _ in range(3)]
    expected = SlotAttention(config, SlotCache(config, 2), spans)(1, *qkv)
    assert (factory(path, config)(spans)(1, *qkv) - expected).abs().max() < 1e-5


def test_the_best_path_is_taken_unless_one_is_named() -> None:
    best = native.load()
    if best is None:
        pytest.skip("the native kernels were not built")
    available = [name for name in native.PATHS if native.load(name) is not None]
    assert best.path == available[-1]
    assert [kernels.path for name in available if (kernels := native.load(name))] == available
    with pytest.raises(KeyError):
        native.load("sse9")


@pytest.mark.parametrize("library", ["absent", "broken"])
def test_without_a_library_there_are_no_kernels(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = None
    if library == "broken":
        path = tmp_path / "_native.so"
        path.write_bytes(b"not a library")
        spec = importlib.machinery.ModuleSpec("model.kernels._native", None, origin=str(path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    assert native.load() is None
    assert native.load("plain") is None
    assert native.available_paths() == ()


def test_a_path_that_the_processor_lacks_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    if native.load() is None:
        pytest.skip("the native kernels were not built")
    monkeypatch.setitem(native.PATHS, "future", 1 << 20)
    assert native.load("future") is None
    best = native.load()
    assert best is not None
    assert best.path != "future"
