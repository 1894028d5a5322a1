"""Where a sequence ends is exact, however far the device runs ahead."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.request import FinishReason, Request, SamplingParams
from tests.support.device import (
    CONFIG,
    LateStream,
    answers,
    cpu_answers,
    make_core,
    prompt,
    request,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_nothing_is_launched_beyond_a_limit() -> None:
    stream = LateStream()
    core = make_core(stream, num_ahead=8)
    answers(core, [request(0, 0, max_tokens=3)])
    # a patch, a prefill and two decode steps
    assert stream.num_replays == 4


def test_limits_are_exact_up_to_the_context() -> None:
    core = make_core(LateStream(is_strict=False), num_ahead=8)
    lengths = [(1, 1), (1, 2), (3, 9), (128, 1), (127, 2), (100, 29)]
    asked = [
        Request(i, (i + 1,) * p, SamplingParams(max_tokens=m, ignore_eos=True))
        for i, (p, m) in enumerate(lengths)
    ]
    found = answers(core, asked)
    assert [len(found[i][0]) for i in range(len(lengths))] == [m for _, m in lengths]
    assert {reason for _, _, reason in found.values()} == {FinishReason.LENGTH}


def test_a_stop_token_ends_the_sequence_where_it_is_drawn() -> None:
    free = answers(make_core(num_slots=1), [request(0, 4, 1.0, max_tokens=30)])[0][0]
    for place in (0, 1, 7):
        stop = free[place]
        first = free.index(stop)
        for num_ahead in (1, 8):
            asked = request(0, 4, 1.0, max_tokens=30, stop_token_ids=(stop,))
            core = make_core(LateStream(), num_ahead=num_ahead)
            ids, _, reason = answers(core, [asked])[0]
            assert (ids, reason) == (free[: first + 1], FinishReason.STOP)


def test_the_end_of_text_ends_it_unless_ignored() -> None:
    (eos,) = CONFIG.eos_token_ids
    bias: dict[str, Any] = {"logit_bias": ((eos, 100.0),), "temperature": 0.0, "max_tokens": 4}
    core = make_core(LateStream(), num_ahead=8)
    found = answers(
        core,
        [
            request(0, 0, ignore_eos=False, **bias),
            request(1, 1, ignore_eos=True, **bias),
            request(2, 2, ignore_eos=False, min_tokens=3, **bias),
            request(3, 3, ignore_eos=True, min_tokens=3, **bias),
        ],
    )
    assert found[0][0] == (eos,)
    assert found[1][0] == (eos,) * 4
    assert eos not in found[2][0][:3]
    assert found[2][0][3:] == (eos,)
    assert eos not in found[3][0][:3]


def test_the_minimum_alone_holds_back_what_would_end_it() -> None:
    """No other option that needs the full step; the stop tokens are the likeliest ones."""
    free = cpu_answers([request(0, 4, 0.0, num_logprobs=None)])[0][0]
    options: dict[str, Any] = {"stop_token_ids": tuple(set(free)), "num_logprobs": None}
    asked = [request(i, 4, 0.0, min_tokens=i, **options) for i in (0, 1, 4)]
    assert answers(make_core(LateStream()), asked) == cpu_answers(asked)


def test_a_row_that_has_ended_is_left_alone_by_the_steps_behind() -> None:
    (eos,) = CONFIG.eos_token_ids
    core = make_core(num_slots=3, num_ahead=8)
    core.submit(
        [
            request(0, 0, 0.0, logit_bias=((eos, 100.0),), ignore_eos=False, min_tokens=2),
            request(1, 1, max_tokens=30),
            request(2, 2, max_tokens=30),
        ]
    )
    answers(core, [])
    state = core.runner.state
    assert state.length[0] == len(prompt(0)) + 3
    assert state.length[state.dummy] == 1
    assert not state.active.any()
