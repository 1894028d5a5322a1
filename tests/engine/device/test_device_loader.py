"""What a configuration comes to on a GPU, and how many slots fit; no GPU is needed to say it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from engine.device import loader
from engine.device.loader import build_device_core, chosen, device_of, plain_tensors
from engine.device.memory import Room, fitting_slots
from engine.device.stream import EagerStream
from engine.errors import EngineFailed
from engine.loader import build_core
from engine.messages import EngineConfig
from engine.networks import Weights
from engine.request import Request, SamplingParams
from model.network import gpt_with
from tests.support.device import CONFIG, LateStream, answers, make_core, random_weights, watched
from tests.support.logits import PlainAttend


def test_without_a_gpu_cuda_is_refused_and_auto_is_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == device_of("cpu") == "cpu"
    with pytest.raises(EngineFailed, match=r"^device cuda is not to be had here: torch .* cpu$"):
        device_of("cuda")
    with pytest.raises(EngineFailed, match="device must be auto, cpu or cuda, got 'tpu'"):
        device_of("tpu")


def test_with_a_gpu_auto_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [device_of(name) for name in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"dtype": "int8"}, "dtype must be one of auto, bfloat16, float16, float32 on a GPU"),
        ({"kv_dtype": "int8"}, "kv_dtype must be one of auto, bfloat16, float16, float32 on a"),
        ({"kernels": "avx512"}, "kernels must be one of auto, torch, triton, triton-fast on a"),
        ({"num_slots": 0}, "slots must be at least 1, got 0"),
        ({"max_context": 129}, "max_context must be from 1 to the checkpoint's 128, got 129"),
    ],
)
def test_impossible_settings_are_named(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(EngineFailed, match=problem):
        chosen(CONFIG, EngineConfig("", **options))


def test_all_problems_are_told_at_once() -> None:
    options: dict[str, Any] = {"dtype": "int4", "kv_dtype": "x", "kernels": "y", "num_slots": 0}
    with pytest.raises(EngineFailed) as refused:
        chosen(CONFIG, EngineConfig("", max_context=0, **options))
    assert len(refused.value.problems) == 5


def test_norms_after_sub_layers_are_served_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, norm_placement="post")
    monkeypatch.setattr(loader, "find_spec", lambda name: object())
    assert chosen(config, EngineConfig("")).kernels == "torch"
    with pytest.raises(EngineFailed, match=r"^kernels triton have no .*post.*possible: torch$"):
        chosen(config, EngineConfig("", kernels="triton"))


@pytest.mark.parametrize(
    ("options", "has_triton", "expected"),
    [
        ({}, True, ("bfloat16", "bfloat16", "triton", 128)),
        ({}, False, ("bfloat16", "bfloat16", "torch", 128)),
        ({"dtype": "float16", "max_context": 50}, True, ("float16", "float16", "triton", 50)),
        (
            {"dtype": "float32", "kv_dtype": "bfloat16"},
            False,
            ("float32", "bfloat16", "torch", 128),
        ),
    ],
)
def test_what_is_left_open_is_chosen(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], has_triton: bool, expected: object
) -> None:
    monkeypatch.setattr(loader, "find_spec", lambda _: object() if has_triton else None)
    found = chosen(CONFIG, EngineConfig("", **options))
    assert (found.dtype, found.kv_dtype, found.kernels, found.context_len) == expected


def test_kernels_without_triton_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "find_spec", lambda _: None)
    with pytest.raises(EngineFailed, match="kernels triton need triton, which is not installed"):
        chosen(CONFIG, EngineConfig("", kernels="triton"))


def test_a_quantised_checkpoint_is_multiplied_out() -> None:
    weights = Weights(CONFIG, random_weights(), {})
    found = plain_tensors(weights.quantised("int8"))
    assert found.keys() == weights.tensors.keys()
    ids = torch.arange(40)
    with torch.inference_mode():
        logits, expected = (
            gpt.logits(gpt(ids, ids, PlainAttend(CONFIG)))
            for gpt in (gpt_with(CONFIG, found), gpt_with(CONFIG, weights.tensors))
        )
    assert 0 < float((logits - expected).norm() / expected.norm()) < 0.05


@pytest.mark.parametrize(
    ("room", "wanted", "expected"),
    [
        (Room(10_000, 0), None, 94),  # 95 % of it, less the one for padding
        (Room(10_000, 5_000), None, 46),
        (Room(10_000_000, 0), None, 1_024),
        (Room(10_000, 0), 20, 20),
        (Room(10_000, 0), 94, 94),
    ],
)
def test_as_many_slots_as_fit(room: Room, wanted: int | None, expected: int) -> None:
    assert fitting_slots(room, 100, 128, wanted, 1_024) == expected


@pytest.mark.parametrize(
    ("room", "wanted", "message"),
    [
        (
            Room(10_000, 9_900),
            None,
            "not even one slot fits beside the one for padding: one takes 100 bytes for 128 "
            "positions, and of 10,000 free beside the weights steps and graphs need 9,900; "
            "lower max_context",
        ),
        (Room(10_000, 0), 95, "slots must be at most 94, got 95: one takes 100 bytes"),
        (Room(10**9, 0), 1_025, "slots must be at most 1024 on a GPU, got 1025"),
        (Room(100, 200), None, "not even one slot"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(
    room: Room, wanted: int | None, message: str
) -> None:
    with pytest.raises(EngineFailed, match=message):
        fitting_slots(room, 100, 128, wanted, 1_024)


def test_a_rehearsal_touches_nothing_but_the_dummy() -> None:
    stream = LateStream()
    core = make_core(stream, num_slots=2)
    stream.mark().wait()
    before = [tensor.clone() for tensor in watched(core)]
    core.runner.rehearse()
    dummy = core.runner.state.dummy
    for tensor, other in zip(watched(core), before, strict=True):
        per_slot, others = (x.transpose(0, 1) if x.dim() > 3 else x for x in (tensor, other))
        torch.testing.assert_close(per_slot[:dummy], others[:dummy], equal_nan=True, rtol=0, atol=0)


def test_a_core_is_built_and_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "CudaStream", EagerStream)
    monkeypatch.setattr(loader, "rehearsed_room", lambda *_: Room(10**9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    options: dict[str, Any] = {"dtype": "float32", "kernels": "torch", "num_slots": 3}
    config = EngineConfig("", **options)
    core, info = build_device_core(CONFIG, random_weights(), config, "hash", "source")
    assert (info.device, info.dtype, info.num_slots) == ("cuda (a card)", "float32", 3)
    assert info.slot_bytes == CONFIG.slot_bytes(4)
    asked = [Request(0, (1, 2, 3), SamplingParams(max_tokens=5, temperature=0.0))]
    assert answers(core, asked) == answers(make_core(), asked)
    cpu_info = build_core(CONFIG, random_weights(), config, "hash", "source")[1]
    assert info.fingerprint != cpu_info.fingerprint


def test_a_post_norm_core_draws_what_the_network_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "CudaStream", EagerStream)
    monkeypatch.setattr(loader, "rehearsed_room", lambda *_: Room(10**9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    config = replace(CONFIG, norm_placement="post")
    weights = {name: t for name, t in random_weights().items() if not name.startswith("ln_f")}
    asked = Request(0, tuple(range(40)), SamplingParams(max_tokens=5, temperature=0.0))
    options = EngineConfig("", dtype="float32", num_slots=3)
    core, info = build_device_core(config, weights, options, "hash", "source")
    assert info.kernels == "torch"
    ids, gpt = list(asked.prompt_ids), gpt_with(config, weights)
    for _ in range(5):
        with torch.inference_mode():
            hidden = gpt(torch.tensor(ids), torch.arange(len(ids)), PlainAttend(config))
            ids.append(int(gpt.logits(hidden)[-1].argmax()))
    assert answers(core, [asked])[0][0] == tuple(ids[40:])
