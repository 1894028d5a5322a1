"""The device core on CPU tensors: same tokens as EngineCore, same bits in any company.

Every unwritten cache position is NaN, and most runs use a stream that does nothing before
somebody waits for it, so that a read too early shows.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.chunk_budget import ChunkBudget
from engine.core import EngineCore
from engine.device.core import DeviceCore
from engine.device.fault import DeviceFault
from engine.device.launch import DecodeLaunch, PrefillLaunch
from engine.device.run_ahead import MAX_AHEAD
from engine.device.runner import Flight
from engine.device.torch_decoder import TorchDecoder
from engine.messages import StepBegins
from engine.request import Request, SamplingParams, TokenOutput
from engine.stream import join_outputs
from tests.support.device import (
    Answer,
    LateStream,
    answers,
    cpu_answers,
    cpu_core,
    folded,
    make_core,
    prompt,
    request,
)

OPTIONS: list[dict[str, Any]] = [
    {},
    {"top_k": 20},
    {"top_p": 0.8, "repetition_penalty": 1.3},
    {"min_p": 0.05, "presence_penalty": 0.5},
    {"logit_bias": ((3, 4.0), (7, -50.0)), "min_tokens": 6},
    {"frequency_penalty": 0.7, "stop_token_ids": tuple(range(20, 60))},
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def varied(count: int) -> list[Request]:
    return [request(i, i, (i % 3) * 0.7, **OPTIONS[i % len(OPTIONS)]) for i in range(count)]


@pytest.fixture(scope="module")
def alone() -> dict[int, Answer]:
    """Each request in a core of its own, looked at after every step."""
    one = make_core(num_slots=1, num_ahead=1, keeps_generated=False)
    found: dict[int, Answer] = {}
    for asked in varied(18):
        found |= answers(one, [asked])
    return found


@pytest.mark.parametrize("num_ahead", [1, 8])
def test_greedy_tokens_are_those_of_the_cpu_core(num_ahead: int) -> None:
    options = [{**one, "num_logprobs": None} for one in (*OPTIONS, {"ignore_eos": False})]
    asked = [request(i, i, 0.0, **options[i % len(options)]) for i in range(14)]
    found = answers(make_core(LateStream(), num_ahead=num_ahead), asked)
    assert found == cpu_answers(asked)


def test_log_probabilities_are_those_of_the_cpu_core() -> None:
    asked = [request(i, i, 0.0, **OPTIONS[i % len(OPTIONS)]) for i in range(6)]
    expected = cpu_answers(asked)
    for request_id, (ids, logprobs, _) in answers(make_core(), asked).items():
        assert ids == expected[request_id][0]
        for mine, theirs in zip(logprobs, expected[request_id][1], strict=True):
            assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)
            assert [i for i, _ in mine.top] == [i for i, _ in theirs.top]
            assert [x for _, x in mine.top] == pytest.approx([x for _, x in theirs.top], abs=1e-4)


@pytest.mark.parametrize("num_ahead", [1, 3, 8])
def test_bits_do_not_depend_on_company_bucket_or_run_ahead(
    alone: dict[int, Answer], num_ahead: int
) -> None:
    core = make_core(LateStream(), num_slots=18, num_ahead=num_ahead)
    assert answers(core, varied(18)) == alone


def test_bits_with_arrivals_between_steps_and_few_slots(alone: dict[int, Answer]) -> None:
    core, draw = make_core(num_slots=3), random.Random(0)
    waiting, outputs = varied(18), dict[int, list[TokenOutput]]()
    while waiting or core.has_work:
        for _ in range(draw.choice([0, 0, 1, 3])):
            core.submit([waiting.pop(0)] if waiting else [])
        for output in core.step()[0]:
            outputs.setdefault(output.request_id, []).append(output)
        core.scheduler.check_integrity()
    assert {request_id: folded(group) for request_id, group in outputs.items()} == alone


def test_bits_with_a_prefix_that_was_generated_and_copied() -> None:
    core = make_core(LateStream())
    first = request(0, 3, 1.0, max_tokens=40)
    (ids, _, _) = answers(core, [first])[0]
    longer = (*first.prompt_ids, *ids[:30])
    params = SamplingParams(max_tokens=8, seed=1, num_logprobs=2)
    copied = Request(1, longer, params)
    core.submit([copied])
    output = core.step()[0]
    assert output[0].num_cached_tokens >= len(longer) - 1
    rest = answers(core, [])
    found = folded([*output, TokenOutput(1, *rest[1])])
    fresh = answers(make_core(), [Request(1, longer, params)])[1]
    assert found[:2] == fresh[:2]


def test_a_strict_core_offers_no_generated_prefix() -> None:
    cached = []
    for keeps_generated in (False, True):
        core = make_core(keeps_generated=keeps_generated)
        first = Request(0, tuple(range(20)), SamplingParams(max_tokens=40, ignore_eos=True))
        (ids, _, _) = answers(core, [first])[0]
        core.submit([Request(1, (*first.prompt_ids, *ids[:30]), SamplingParams(max_tokens=1))])
        cached.append(core.step()[0][0].num_cached_tokens)
    assert cached == [20, 49]


def test_bits_after_aborts_at_random_moments(alone: dict[int, Answer]) -> None:
    for seed in range(4):
        draw = random.Random(seed)
        core = make_core(LateStream(is_strict=False), num_slots=4, num_ahead=draw.choice([1, 2, 8]))
        doomed = {100 + i: request(100 + i, draw.randrange(50)) for i in range(12)}
        core.submit([*doomed.values(), *varied(9)])
        outputs: dict[int, list[TokenOutput]] = {}
        while core.has_work:
            for output in core.step()[0]:
                outputs.setdefault(output.request_id, []).append(output)
            if doomed and draw.random() < 0.5:
                gone = draw.choice(sorted(doomed))
                core.abort([gone])
                del doomed[gone]
            core.scheduler.check_integrity()
        for asked in varied(9):
            assert folded(outputs[asked.request_id]) == alone[asked.request_id]


def test_an_aborted_request_says_nothing_more_and_keeps_its_slot_until_it_has_landed() -> None:
    core = make_core(LateStream(), num_slots=2, num_ahead=4)
    core.submit([request(0, 0, max_tokens=50), request(1, 1, max_tokens=50)])
    core.step()
    core.abort([0])
    assert core.scheduler.pool.num_held == 2  # decode steps with it are still queued
    later = [output.request_id for _ in range(6) for output in core.step()[0]]
    assert set(later) == {1}
    assert core.scheduler.pool.num_held == 1


def test_n_choices_compute_their_prompt_once() -> None:
    core = make_core(LateStream(), num_ahead=4)
    asked = [
        Request(i, tuple(range(60)), SamplingParams(max_tokens=4, choice_index=i, seed=3))
        for i in range(4)
    ]
    cached = sorted(output.num_cached_tokens for output in whole_outputs(core, asked))
    assert cached == [0, 59, 59, 59]


def test_a_resumed_request_goes_on_as_if_never_interrupted() -> None:
    params = SamplingParams(
        max_tokens=12, seed=9, num_logprobs=1, min_tokens=8, ignore_eos=True, frequency_penalty=0.5
    )
    whole = answers(make_core(), [Request(0, prompt(6), params)])[0]
    for done in (1, 5, 11):
        resumed = Request(0, prompt(6), params, whole[0][:done])
        ids, logprobs, _ = answers(make_core(LateStream()), [resumed])[0]
        assert ids == whole[0][done:]
        assert logprobs == whole[1][done:]


def test_a_scored_prompt_equals_the_cpu_cores() -> None:
    params = SamplingParams(max_tokens=0, num_prompt_logprobs=2)
    asked = [Request(i, prompt(i), params) for i in range(5)]
    asked.append(
        Request(9, prompt(2), SamplingParams(max_tokens=2, num_prompt_logprobs=0, temperature=0.0))
    )
    found, expected = (
        {o.request_id: o for o in whole_outputs(core, asked)}
        for core in (make_core(LateStream()), cpu_core())
    )
    assert found.keys() == expected.keys()
    for request_id, output in found.items():
        other = expected[request_id]
        assert (output.token_ids, output.finish_reason) == (other.token_ids, other.finish_reason)
        assert [x.logprob for x in output.prompt_logprobs] == pytest.approx(
            [x.logprob for x in other.prompt_logprobs], abs=1e-4
        )
        tops, others = ([x.top for x in one.prompt_logprobs] for one in (output, other))
        assert [[i for i, _ in top] for top in tops] == [[i for i, _ in top] for top in others]


def whole_outputs(core: DeviceCore | EngineCore, asked: Sequence[Request]) -> list[TokenOutput]:
    core.submit(asked)
    groups: dict[int, list[TokenOutput]] = {}
    while core.has_work:
        for output in core.step()[0]:
            groups.setdefault(output.request_id, []).append(output)
    return [join_outputs(group) for group in groups.values()]


def test_draws_follow_the_distribution() -> None:
    """400 draws of one position, top-k of 4, against the probabilities of the CPU core."""
    count = 400
    core = make_core(num_slots=32)
    asked = [
        Request(i, prompt(1), SamplingParams(max_tokens=1, choice_index=i, top_k=4, num_logprobs=4))
        for i in range(count)
    ]
    found = answers(core, asked)
    top = found[0][1][0].top
    weights = [math.exp(value) for _, value in top]
    drawn = [ids[0] for ids, _, _ in found.values()]
    chi2 = 0.0
    for (token_id, _), weight in zip(top, weights, strict=True):
        expected = count * weight / sum(weights)
        chi2 += (drawn.count(token_id) - expected) ** 2 / expected
    assert set(drawn) <= {token_id for token_id, _ in top}
    assert chi2 < 16.3  # 0.1 % of the chi-square distribution with 3 degrees of freedom


def test_all_that_is_in_flight_is_named_before_more_joins_it() -> None:
    """A fault shows when something lands, so any of it may be the cause."""
    core = make_core(LateStream(), num_ahead=2)
    begun: list[StepBegins] = []
    core.on_step = begun.append
    answers(core, [request(i, i, 0.0) for i in range(3)])
    assert begun[0].phase == "prefill"
    assert {tuple(sorted(one.request_ids)) for one in begun} == {(0, 1, 2)}
    assert max(one.num_tokens for one in begun if one.phase == "decode") == 6  # two steps of three


def test_stats_say_what_was_done() -> None:
    core = make_core(num_ahead=2)
    core.submit([request(0, 3, max_tokens=5), request(1, 4, max_tokens=5)])
    _, stats = core.step()
    assert (stats.num_running, stats.num_waiting, stats.num_slots_in_use) == (2, 0, 2)
    assert stats.num_rows == 2
    phases = [core.step()[1].phase for _ in range(2)]
    assert phases == ["decode", "decode"] or stats.phase == "mixed"
    assert core.stats.num_running <= 2


def test_what_the_device_reports_becomes_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    core = make_core()
    core.submit([request(0, 0)])

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    monkeypatch.setattr(core.runner, "prefill", fail)
    with pytest.raises(DeviceFault, match=r"^the device failed: CUDA out of memory.*GiB$"):
        core.step()


def test_every_decode_bucket_gives_the_same_bits(alone: dict[int, Answer]) -> None:
    for count, seed in itertools.product((1, 2, 5, 12), (0, 5)):
        others = [request(200 + i, 60 + i, max_tokens=12) for i in range(count - 1)]
        core = make_core(num_slots=16, num_ahead=2)
        asked = varied(18)[seed]
        assert answers(core, [*others, asked])[seed] == alone[seed]


def test_padding_rows_are_the_dummys(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[list[int]] = []
    decode = TorchDecoder.decode

    def note(self: TorchDecoder, ids: Tensor, slots: Tensor, positions: Tensor) -> Tensor:
        heard.append(slots.tolist())
        return decode(self, ids, slots, positions)

    monkeypatch.setattr(TorchDecoder, "decode", note)
    answers(make_core(num_slots=5), [request(i, i, max_tokens=3 + i) for i in range(5)])
    assert {len(slots) for slots in heard} == {1, 2, 4, 8}
    for slots in heard:
        real = [slot for slot in slots if slot != 5]
        assert len(set(real)) == len(real)


def test_decode_steps_go_between_the_chunks_of_a_long_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core = make_core(LateStream(is_strict=False), num_ahead=2)
    launched: list[str] = []
    prefill, decode = core.runner.prefill, core.runner.decode

    def note_prefill(launch: PrefillLaunch) -> Flight:
        launched.append("prefill")
        return prefill(launch)

    def note_decode(launch: DecodeLaunch) -> Flight:
        launched.append("decode")
        return decode(launch)

    monkeypatch.setattr(core.runner, "prefill", note_prefill)
    monkeypatch.setattr(core.runner, "decode", note_decode)
    core.scheduler._budget = ChunkBudget(max_chunk_len=20)
    core.submit([Request(0, (1,), SamplingParams(max_tokens=60, ignore_eos=True))])
    core.step()
    core.submit([Request(1, tuple(range(100)), SamplingParams(max_tokens=1))])
    answers(core, [])
    chunks = [i for i, name in enumerate(launched) if name == "prefill"]
    assert len(chunks) > 5
    assert all(b - a > 1 for a, b in itertools.pairwise(chunks))


def test_the_run_ahead_bridges_what_the_caller_does_between_passes() -> None:
    core = make_core(LateStream(is_strict=False))
    core.submit([Request(0, (1,), SamplingParams(max_tokens=120, ignore_eos=True))])
    for _ in range(8):
        core.step()
        time.sleep(0.03)  # a step takes 2 ms by the clock of this stream
    assert core.run_ahead.depth(has_waiting=False) == MAX_AHEAD
