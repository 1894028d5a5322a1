"""Prompts that no one has seen before, and scenarios that do not fit."""

from __future__ import annotations

from bench.scenarios import decoding, fitting, prefill


def test_no_two_prompts_begin_alike() -> None:
    seen = [
        tuple(prompt[:8])
        for scenario in (decoding(1, 16), decoding(8, 16), prefill(16))
        for index in range(3)
        for prompt in scenario.prompts(50_257, index)
    ]
    assert len(set(seen)) == len(seen) == 30
    assert decoding(8, 16).prompts(97, 1) == decoding(8, 16).prompts(97, 1)


def test_what_does_not_fit_is_named() -> None:
    fit, left_out = fitting([decoding(1, 16, 8), prefill(512)], 64)
    assert [scenario.name for scenario in fit] == ["one stream"]
    assert left_out == ["prefill 512: needs 513 positions, the checkpoint has 64"]
