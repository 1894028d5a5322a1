"""A request on its way: what a draw needs of it, and what ends it."""

from __future__ import annotations

from typing import Any

import pytest

from engine.request import FinishReason, Request, SamplingParams
from engine.sequence import SequenceState

EOS, STOP = 8, 9


def sequence(generated: tuple[int, ...] = (), **options: Any) -> SequenceState:
    """One token was emitted by an earlier engine, then ``generated`` came."""
    state = SequenceState(Request(0, (1, 2, 3), SamplingParams(**options), emitted_ids=(4,)), 0.0)
    state.token_ids += generated
    return state


@pytest.mark.parametrize(
    ("options", "needs_prompt", "needs_output"),
    [
        ({}, False, False),
        ({"presence_penalty": -0.5}, False, True),
        ({"frequency_penalty": 0.5}, False, True),
        ({"repetition_penalty": 1.2}, True, True),
        ({"repetition_penalty": 0.8}, True, True),
    ],
)
def test_penalties_get_the_tokens_that_they_read(
    options: dict[str, float], needs_prompt: bool, needs_output: bool
) -> None:
    state = sequence((5, 6), **options).sampling_state((), 50)
    assert state.token_index == 3
    assert state.prompt_ids == ((1, 2, 3) if needs_prompt else ())
    assert state.output_ids == ((4, 5, 6) if needs_output else ())


@pytest.mark.parametrize(
    ("generated", "banned"), [((), (EOS, STOP)), ((5,), (EOS, STOP)), ((5, 6), ()), ((5, 6, 7), ())]
)
def test_endings_are_banned_below_the_minimum(
    generated: tuple[int, ...], banned: tuple[int, ...]
) -> None:
    state = sequence(generated, min_tokens=3, stop_token_ids=(STOP,))
    assert state.sampling_state((EOS,), 50).banned_ids == banned


def test_never_is_the_whole_vocabulary_banned() -> None:
    state = sequence(min_tokens=3, stop_token_ids=(0, 1))
    assert state.sampling_state((2,), 3).banned_ids == ()
    assert state.sampling_state((2,), 4).banned_ids == (0, 1, 2)


@pytest.mark.parametrize(
    ("last", "options", "reason"),
    [
        (5, {}, None),
        (EOS, {}, FinishReason.STOP),
        (EOS, {"ignore_eos": True}, None),
        (STOP, {}, FinishReason.STOP),
        (STOP, {"ignore_eos": True}, FinishReason.STOP),
        (5, {"max_tokens": 3}, None),
        (5, {"max_tokens": 2}, FinishReason.LENGTH),
        (STOP, {"max_tokens": 2}, FinishReason.STOP),  # both at once
        (EOS, {"max_tokens": 2, "ignore_eos": True}, FinishReason.LENGTH),
    ],
)
def test_what_ends_a_sequence(
    last: int, options: dict[str, Any], reason: FinishReason | None
) -> None:
    state = sequence((last,), stop_token_ids=(STOP,), **options)
    assert state.finish_reason((EOS,), context_len=100) is reason


@pytest.mark.parametrize(("context_len", "ends"), [(6, False), (5, False), (4, True)])
def test_the_last_token_needs_no_position(context_len: int, ends: bool) -> None:
    reason = sequence((5,)).finish_reason((), context_len)  # five tokens
    assert (reason is FinishReason.LENGTH) == ends
