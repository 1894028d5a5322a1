"""Classification in the engine: the right hidden states, the same bits in any company."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine import chunk_budget
from engine.core import EngineCore
from engine.errors import EngineFailed
from engine.loader import build_core
from engine.messages import EngineConfig, ModelInfo
from engine.networks import Weights
from engine.request import Request, SamplingParams, TaskParams, TokenOutput
from engine.runner import Runner
from engine.scheduler import TASK_SHARE, Scheduler
from engine.slot_pool import SlotPool
from engine.tasks import LoadedTask
from model.attention import CausalAttention, Span
from model.config import GPTConfig
from model.decoder import GPT, parameter_shapes
from model.heads import TaskHead
from model.kernels import native
from model.lora import adapter_of
from model.tasks import TaskConfig
from tests.support.fake_runner import FakeRunner
from tests.support.lora import merged, random_thin

CONFIG = GPTConfig(203, 64, 64, 2, 2, 128, eos_token_ids=(202,))
ENTAILMENT = TaskConfig("entailment", 48, labels=("yes", "no", "maybe"))
SIMILARITY = TaskConfig(
    "similarity", 40, is_regression=True, score_range=(0.0, 5.0), join="concatenate"
)
LAST = TaskConfig("classification", 30, labels=("a", "b"), pooling="last")
PATHS = ["torch", "auto"]


def tensors(seed: int, config: GPTConfig = CONFIG) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * 0.1
        + ("ln_" in name and name.endswith("weight"))
        for name, shape in parameter_shapes(config).items()
    }


def task(
    name: str,
    config: TaskConfig,
    trunk: Weights | None = None,
    thin: dict[str, Tensor] | None = None,
) -> LoadedTask:
    generator = torch.Generator().manual_seed(len(name))
    width = 2 if config.join == "concatenate" else 1
    head = TaskHead(
        config,
        torch.randn(config.num_outputs, width * CONFIG.num_channels, generator=generator),
        torch.randn(config.num_outputs, generator=generator),
    )
    special = torch.randn(3, CONFIG.num_channels, generator=generator) * 0.1
    train = "full" if trunk else "lora" if thin else "head"
    adapter = None if thin is None else adapter_of(thin, SCALE)
    return LoadedTask(name, head, special, trunk, train, f"hash of {name}", "a test", adapter)


SCALE = 0.5
OWN = Weights(CONFIG, tensors(9), {})
THIN = {"lora": random_thin(CONFIG, 3), "fc": random_thin(CONFIG, 4, 5, ("mlp.c_fc",))}
TASKS = [
    task("nli", ENTAILMENT),
    task("sts", SIMILARITY),
    task("whole", ENTAILMENT, OWN),
    task("plain", LAST, OWN),
    task("lora", ENTAILMENT, thin=THIN["lora"]),
    task("fc", SIMILARITY, thin=THIN["fc"]),
]


def build(**options: Any) -> tuple[EngineCore, ModelInfo]:
    config = EngineConfig("", **{"dtype": "float32", "num_slots": 8, "num_threads": 1, **options})
    return build_core(CONFIG, tensors(1), config, "hash", "a test", tasks=TASKS)


def run(core: EngineCore, *requests: Request) -> list[tuple[float, ...]]:
    """The logits of each, in order."""
    found: dict[int, tuple[float, ...]] = {}
    core.submit(requests)
    while core.has_work:
        for output in core.step()[0]:
            found[output.request_id] = output.logits or found.get(output.request_id, ())
        core.scheduler.check_integrity()
    return [found.get(request.request_id, ()) for request in requests]


def classify(request_id: int, index: int, length: int, part: int = 0) -> Request:
    """A sequence for task number ``index``: start, plain ids, extract."""
    first = CONFIG.vocab_size + 3 * index
    generator = torch.Generator().manual_seed(request_id)
    ids = torch.randint(200, (length,), generator=generator).tolist()
    is_private = TASKS[index].head.config.pooling == "last"
    whole = tuple(ids) if is_private else (first, *ids, first + 1, *ids[:3], first + 2)
    params = SamplingParams(max_tokens=0)
    return Request(request_id, whole, params, task=TaskParams(TASKS[index].name, part, is_private))


def expected(request: Request) -> Tensor:
    """By the whole network at once, without a cache."""
    assert request.task is not None
    index = [one.name for one in TASKS].index(request.task.name)
    chosen = TASKS[index]
    given = tensors(1) if chosen.trunk is None else dict(chosen.trunk.tensors)
    given = merged(given, THIN.get(chosen.name, {}), SCALE)
    assert chosen.special is not None
    gpt = GPT(CONFIG)
    gpt.load_state_dict({"lm_head.weight": given["wte.weight"], **given})
    rows = torch.cat((given["wte.weight"], torch.zeros(3 * index, 64), chosen.special))
    gpt.wte = torch.nn.Embedding(rows.shape[0], 64)
    gpt.wte.weight = torch.nn.Parameter(rows)
    ids = torch.tensor(request.prompt_ids)
    with torch.inference_mode():
        hidden = gpt(ids, torch.arange(len(ids)), CausalAttention(CONFIG, len(ids)))[-1:]
        return chosen.head.logits(hidden, [request.task.part])[0]


one_request = st.tuples(
    st.integers(0, 30),  # tokens shared with the others
    st.lists(st.integers(0, 49), min_size=1, max_size=20),
    st.sampled_from([None, "a", "b"]),
    st.booleans(),  # whether the prefix is private
    st.integers(0, 4),  # steps before it comes
)


@settings(max_examples=100, deadline=None)
@given(st.lists(one_request, min_size=1, max_size=12), st.integers(1, 5))
def test_tasks_and_streams_in_any_order(
    asked: list[tuple[int, list[int], str | None, bool, int]], num_slots: int
) -> None:
    """Each sequence is read whole, by itself or from a prefix, and ends once."""
    runner = FakeRunner(num_slots, 64)
    core = EngineCore(Scheduler(SlotPool(num_slots), 64, 50), runner)
    found: dict[int, list[TokenOutput]] = {}
    requests = {}
    for index, (shared, own, name, is_private, steps) in enumerate(asked):
        ids = (*range(shared), *own)
        params = SamplingParams(max_tokens=3 if name is None else 0)
        task = None if name is None else TaskParams(name, 0, is_private)
        requests[index] = Request(index, ids, params, task=task)
        core.submit([requests[index]])
        for _ in range(steps):
            step_into(core, found)
    while core.has_work:
        step_into(core, found)
    for index, request in requests.items():
        outputs = found[index]
        assert [one.finish_reason is not None for one in outputs].count(True) == 1
        if request.task is not None:
            assert [one.logits for one in outputs] == [(float(sum(request.prompt_ids)),)]
            assert not request.task.is_prefix_private or not outputs[0].num_cached_tokens
        else:
            assert sum(len(one.token_ids) for one in outputs) == 3


def step_into(core: EngineCore, found: dict[int, list[TokenOutput]]) -> None:
    for output in core.step()[0] if core.has_work else ():
        found.setdefault(output.request_id, []).append(output)
    core.scheduler.check_integrity()


def test_beside_streams_tasks_get_a_share_of_a_step() -> None:
    runner = FakeRunner(8, 2_000)
    core = EngineCore(Scheduler(SlotPool(8), 2_000, 50), runner)
    core.submit([Request(0, (1, 2, 3), SamplingParams(max_tokens=400, ignore_eos=True))])
    core.step()
    ids = tuple(i % 50 for i in range(300))
    task = [
        Request(i, (i, *ids), SamplingParams(max_tokens=0), task=TaskParams("a")) for i in (1, 2)
    ]
    core.submit([*task, Request(3, (9, *ids), SamplingParams(max_tokens=1))])
    core.step()
    lengths = {row.request_id: len(row.token_ids) for row in runner.steps[-1].rows}
    whole = chunk_budget.MAX_CHUNK_LEN // 4
    share = int(TASK_SHARE * whole)
    assert lengths == {0: 1, 1: share, 3: whole - share}


def test_alone_tasks_get_whole_steps() -> None:
    runner = FakeRunner(8, 2_000)
    core = EngineCore(Scheduler(SlotPool(8), 2_000, 50), runner)
    ids = tuple(i % 50 for i in range(300))
    core.submit([Request(1, ids, SamplingParams(max_tokens=0), task=TaskParams("a"))])
    core.step()
    assert [len(row.token_ids) for row in runner.steps[-1].rows] == [300]


@pytest.mark.parametrize("kernels", PATHS)
def test_logits_are_those_of_the_head_on_the_last_hidden_state(kernels: str) -> None:
    core, _ = build(kernels=kernels)
    requests = [
        classify(0, 0, 20),
        classify(1, 1, 9),
        classify(2, 1, 9, part=1),
        classify(3, 2, 20),
        classify(4, 3, 25),
        classify(6, 4, 20),
        classify(7, 5, 11),
        classify(8, 5, 11, part=1),
    ]
    for request, logits in zip(requests, run(core, *requests), strict=True):
        assert (torch.tensor(logits) - expected(request)).abs().max() < 1e-4, request
    first, second = run(core, classify(5, 1, 9), classify(5 + 2**20, 1, 9, part=1))
    assert first != second


@pytest.mark.parametrize("kernels", PATHS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_company_changes_no_bit(kernels: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, among others and among streams, in chunks, from a prefix."""
    if kernels == "auto" and native.load() is None:
        pytest.skip("the native kernels were not built")
    requests = [
        classify(i, i % 6, 5 + 2 * i % 19, part=int(i % 6 in (1, 5) and i % 12 > 5))
        for i in range(18)
    ]
    alone = [run(build(kernels=kernels, dtype=dtype)[0], request)[0] for request in requests]
    monkeypatch.setattr(chunk_budget, "MAX_CHUNK_LEN", 7)
    monkeypatch.setattr(chunk_budget, "MIN_CHUNK_LEN", 3)
    core, _ = build(kernels=kernels, dtype=dtype)
    beside = streams(5)
    together = run(core, *beside[:3], *requests, *beside[3:])
    assert together[3:-2] == alone
    again = run(
        core, *[Request(200 + r.request_id, r.prompt_ids, r.params, task=r.task) for r in requests]
    )
    assert again == alone


def test_a_known_prefix_is_copied_but_not_between_trunks() -> None:
    core, _ = build()
    shared, own = classify(1, 0, 24), classify(2, 2, 24)
    thin = classify(5, 4, 24)
    ids = tuple(range(24))
    plain = Request(3, ids, SamplingParams(max_tokens=0), task=TaskParams("plain", 0, True))
    generated = Request(4, (*ids, 5), SamplingParams(max_tokens=2, temperature=0))
    asked = (shared, own, plain, generated, thin)
    first = run(core, *asked)
    cached: dict[int, int] = {}
    again = [Request(10 + r.request_id, r.prompt_ids, r.params, task=r.task) for r in asked]
    core.submit(again)
    second: dict[int, tuple[float, ...]] = {}
    while core.has_work:
        for output in core.step()[0]:
            cached[output.request_id] = output.num_cached_tokens
            second[output.request_id] = output.logits or second.get(output.request_id, ())
    assert [second[r.request_id] for r in again] == first
    assert cached[11] == len(shared.prompt_ids) - 1
    assert cached[12] == len(own.prompt_ids) - 1
    assert cached[13] == 0
    assert cached[14] == 24
    assert cached[15] == len(thin.prompt_ids) - 1


def test_nobody_takes_a_private_prefix() -> None:
    """The same plain ids, in a trunk whose keys and values mean something else."""
    core, _ = build()
    ids = tuple(range(24))
    asked = SamplingParams(max_tokens=0)
    run(core, Request(1, ids, asked, task=TaskParams("plain", 0, is_prefix_private=True)))
    core.submit([Request(2, (*ids, 5), SamplingParams(max_tokens=2, temperature=0))])
    outputs = []
    while core.has_work:
        outputs += core.step()[0]
    assert {output.num_cached_tokens for output in outputs} == {0}


def streams(count: int) -> list[Request]:
    params = SamplingParams(max_tokens=25, ignore_eos=True, num_logprobs=3)
    return [Request(100 + i, tuple(range(i, 30)), params) for i in range(count)]


@pytest.mark.parametrize("kernels", PATHS)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_streams_keep_their_bits_beside_adapters(kernels: str, dtype: str) -> None:
    """And those that they have where no task is served."""
    options = {"dtype": dtype, "kernels": kernels, "num_slots": 8, "num_threads": 1}
    config = EngineConfig("", **options)  # type: ignore[arg-type]
    alone = drawn(build_core(CONFIG, tensors(1), config, "hash", "a test")[0], streams(3))
    beside = [classify(i, 4 + i % 2, 5 + i) for i in range(12)]
    core, _ = build(dtype=dtype, kernels=kernels)
    assert drawn(core, [*beside[:6], *streams(3), *beside[6:]]) == alone


def drawn(core: EngineCore, requests: list[Request]) -> dict[int, list[Any]]:
    """The tokens of each stream with their log probabilities."""
    found: dict[int, list[Any]] = {}
    core.submit(requests)
    while core.has_work:
        for output in core.step()[0]:
            if output.token_ids:
                found.setdefault(output.request_id, []).extend(
                    zip(output.token_ids, output.logprobs, strict=True)
                )
    return found


def test_tasks_with_adapters_share_the_served_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass of one network, over streams and classifications with and without adapters."""
    core, _ = build()
    assert isinstance(core.runner, Runner)
    network, seen = core.runner.network, []
    hidden = network.hidden

    def watched(ids: Sequence[int], spans: Sequence[Span], wanted: Sequence[int]) -> Tensor:
        seen.append([span.adapter for span in spans])
        return hidden(ids, spans, wanted)

    monkeypatch.setattr(network, "hidden", watched)
    core.submit([*streams(1), classify(1, 4, 9), classify(2, 5, 9), classify(3, 0, 9)])
    core.step()
    assert [Counter(adapters) for adapters in seen] == [Counter([None, None, 0, 1])]


def test_the_info_names_tasks_ids_and_lengths() -> None:
    _, info = build(max_context=32)
    assert [one.name for one in info.tasks] == [*("nli", "sts", "whole", "plain", "lora", "fc")]
    assert [one.first_special_id for one in info.tasks] == [203, 206, 209, 212, 215, 218]
    assert [one.max_len for one in info.tasks] == [32, 32, 32, 30, 32, 32]
    assert TaskConfig.from_dict(info.tasks[1].config) == SIMILARITY
    assert len({one.fingerprint for one in info.tasks} | {info.fingerprint}) == 7


def test_a_context_too_short_for_a_task_is_refused() -> None:
    with pytest.raises(EngineFailed, match="max_context must be at least 5 for the task 'nli'"):
        build(max_context=4)


def test_names_must_differ() -> None:
    config = EngineConfig("", dtype="float32", num_slots=1)
    with pytest.raises(EngineFailed, match="task names must differ, got 'nli' more than once"):
        build_core(CONFIG, tensors(1), config, "hash", "a test", tasks=[TASKS[0], TASKS[0]])
