"""Settings that are impossible here are refused in words, before anything is allocated."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from engine import loader, networks
from engine.core import EngineCore
from engine.errors import EngineFailed
from engine.loader import MAX_AUTO_SLOTS, SLOT_MEMORY_SHARE, build_core
from engine.messages import EngineConfig, ModelInfo
from engine.runner import Runner
from model.attention import CausalAttention
from model.config import GPTConfig
from model.decoder import GPT
from model.kernels import native
from model.linear import pack

CONFIG = GPTConfig(vocab_size=64, num_positions=64, num_channels=32, num_layers=1, num_heads=2)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"num_slots": 10**9}, r"slots must be at most \d+, got 1000000000"),
        ({"num_slots": 0}, "slots must be at least 1, got 0"),
        ({"num_threads": 100_000}, "threads must be from 1 to 1024, got 100000"),
        ({"num_threads": 0}, "threads must be from 1 to 1024, got 0"),
        ({"max_context": 65}, "max_context must be from 1 to the checkpoint's 64, got 65"),
        ({"dtype": "int3"}, "dtype must be auto"),
        ({"kernels": "foo"}, "kernels must be one of auto"),
        ({"device": "tpu"}, "device must be auto or cpu"),
    ],
)
def test_impossible_settings_are_named(options: dict[str, Any], problem: str) -> None:
    tensors = dict(GPT(CONFIG).named_parameters())
    with pytest.raises(EngineFailed, match=problem) as refused:
        build_core(CONFIG, tensors, EngineConfig(checkpoint="", **options), "hash", "a test")
    assert len(refused.value.problems) == 1


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def build(
    weights_hash: str = "hash",
    source: str = "a test",
    stored: torch.dtype = torch.float32,
    **options: Any,
) -> tuple[EngineCore, ModelInfo]:
    torch.manual_seed(0)
    tensors = {name: p.detach().to(stored) for name, p in GPT(CONFIG).named_parameters()}
    return build_core(CONFIG, tensors, EngineConfig("", **options), weights_hash, source)


def test_every_impossible_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda _path=None: None)
    monkeypatch.setattr(
        loader, "build_network", lambda *_: pytest.fail("loaded before it was refused")
    )
    with pytest.raises(EngineFailed) as refused:
        build(
            device="tpu",
            dtype="int3",
            kv_dtype="int4",
            kernels="plain",
            num_slots=0,
            num_threads=0,
            max_context=0,
        )
    named = {problem.split()[0]: problem for problem in refused.value.problems}
    assert set(named) == {
        *("device", "dtype", "kv_dtype", "kernels", "slots", "threads", "max_context")
    }
    assert named["kv_dtype"] == "kv_dtype must be auto, float32, bfloat16 or int8, got 'int4'"
    assert "kernels plain are not to be had here" in named["kernels"]
    assert "possible: torch" in named["kernels"]


def test_without_native_kernels_auto_serves_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda _path=None: None)
    _, info = build(num_slots=1)
    assert info.kernels.startswith("torch ")


@pytest.mark.parametrize(("has_bfloat16", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_the_precision_is_bfloat16_where_the_processor_has_it(
    has_bfloat16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "has_packed_kernels", lambda _: has_bfloat16)
    assert build(num_slots=1, kernels="torch")[1].dtype == expected
    assert build(num_slots=1, dtype="float32")[1].dtype == "float32"


@pytest.mark.parametrize(
    ("num_fitting", "expected"), [(1, 1), (1.99, 1), (7.5, 7), (10_000, MAX_AUTO_SLOTS)]
)
def test_the_number_of_slots_is_a_share_of_the_memory(
    num_fitting: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot_bytes = CONFIG.slot_bytes(4, 32)
    assert SLOT_MEMORY_SHARE == 0.5
    monkeypatch.setattr(loader, "available_bytes", lambda: int(num_fitting * slot_bytes * 2))
    core, info = build(max_context=32, dtype="float32")
    assert (info.num_slots, info.slot_bytes, info.context_len) == (expected, slot_bytes, 32)
    assert core.scheduler.pool.num_slots == expected
    assert isinstance(core.runner, Runner)
    cache = core.runner.cache
    assert cache.keys.nbytes + cache.values.nbytes == expected * slot_bytes


@pytest.mark.parametrize(
    ("dtype", "kv_dtype", "expected"),
    [
        ("float32", "auto", "float32"),
        ("bfloat16", "auto", "bfloat16"),
        ("int8", "auto", "int8"),
        ("int8", "bfloat16", "bfloat16"),
        ("bfloat16", "int8", "int8"),
    ],
)
def test_the_cache_is_as_precise_as_the_weights_or_as_asked(
    dtype: str, kv_dtype: str, expected: str
) -> None:
    core, info = build(num_slots=2, dtype=dtype, kv_dtype=kv_dtype)
    assert isinstance(core.runner, Runner)
    cache = core.runner.cache
    assert (info.kv_dtype, str(cache.dtype)) == (expected, f"torch.{expected}")
    parts = (cache.keys, cache.values, cache.key_scales, cache.value_scales)
    assert sum(part.nbytes for part in parts if part is not None) == 2 * info.slot_bytes


def test_if_not_even_one_slot_fits_the_refusal_has_the_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slot_bytes = CONFIG.slot_bytes(4, 64)
    monkeypatch.setattr(loader, "available_bytes", lambda: 2 * slot_bytes - 2)
    with pytest.raises(EngineFailed) as refused:
        build(dtype="float32")
    (problem,) = refused.value.problems
    for part in ("one slot", f"{slot_bytes:,}", f"{slot_bytes - 1:,}", "64 positions"):
        assert part in problem


def test_the_slots_asked_for_may_take_all_memory_but_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loader, "available_bytes", lambda: 3 * CONFIG.slot_bytes(4, 64))
    assert build(num_slots=3, dtype="float32")[1].num_slots == 3
    with pytest.raises(EngineFailed, match="slots must be at most 3, got 4"):
        build(num_slots=4, dtype="float32")


def test_the_fingerprint_is_of_all_that_a_seeded_answer_depends_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain: dict[str, Any] = {"num_slots": 1, "dtype": "float32", "num_threads": 1}

    def fingerprint(**options: Any) -> str:
        return build(**{**plain, **options})[1].fingerprint

    first = fingerprint(kernels="torch")
    assert first.startswith("fp_")
    same: list[dict[str, Any]] = [
        {"num_slots": 5},
        {"max_context": 40},
        {"source": "b"},
        {"max_queued_requests": 1},
    ]
    for options in same:
        assert fingerprint(kernels="torch", **options) == first, options
    others: list[dict[str, Any]] = [
        {"weights_hash": "another"},
        {"dtype": "bfloat16"},
        {"kv_dtype": "bfloat16"},
        {"num_threads": 2},
    ]
    found = [fingerprint(kernels="torch", **options) for options in others]
    monkeypatch.setattr(loader, "DRAW_SCHEME", "another")
    found.append(fingerprint(kernels="torch"))
    monkeypatch.undo()
    monkeypatch.setattr(torch, "__version__", "another")
    found.append(fingerprint(kernels="torch"))
    monkeypatch.undo()
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "another")
    found.append(fingerprint(kernels="torch"))
    monkeypatch.undo()
    if native.load() is not None:
        found.append(fingerprint())
    path = "tiled" if "packed" in build(**plain, kernels="torch")[1].kernels else "packed"
    monkeypatch.setattr(networks, "pack", lambda gpt, dtype: pack(gpt, dtype) and path)
    found.append(fingerprint(kernels="torch"))
    assert len({first, *found}) == 1 + len(found)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_and_the_residual_stream_are_float32_whatever_the_dtype(
    dtype: str, stored: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[GPT] = []

    def packed(gpt: GPT, dtype: torch.dtype) -> str:
        made.append(gpt)
        return pack(gpt, dtype)

    monkeypatch.setattr(networks, "pack", packed)
    build(num_slots=1, dtype=dtype, stored=stored, kernels="torch")
    (gpt,) = made
    seen: list[torch.Tensor] = []
    gpt.layers[0].register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    gpt.layers[0].ln_2.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    gpt.ln_f.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    ids = torch.arange(9)
    with torch.inference_mode():
        hidden = gpt(ids, ids, CausalAttention(CONFIG, 9))
        logits = gpt.logits(hidden)
    assert torch.equal(seen[0], gpt.wte.weight[:9].float() + gpt.wpe.weight[:9].float())
    for x in (*seen, hidden, logits):
        assert x.dtype == torch.float32
        assert (x != x.bfloat16().float()).float().mean() > 0.3
