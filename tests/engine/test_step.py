"""What a step says of itself."""

from __future__ import annotations

import pytest

from engine.request import SamplingParams
from engine.step import SamplingState, Step, StepRow

DRAW = SamplingState(SamplingParams(), 0)


def row(num_tokens: int, draws: bool) -> StepRow:
    return StepRow(0, 0, 0, (1,) * num_tokens, DRAW if draws else None)


@pytest.mark.parametrize(
    ("rows", "phase", "num_tokens"),
    [
        ([row(1, True), row(1, True)], "decode", 2),
        ([row(5, True), row(16, False)], "prefill", 21),
        ([row(1, False), row(16, False)], "prefill", 17),
        ([row(1, True), row(16, False)], "mixed", 17),
        ([row(1, True), row(7, True)], "mixed", 8),
    ],
)
def test_phase_and_size(rows: list[StepRow], phase: str, num_tokens: int) -> None:
    step = Step((), tuple(rows))
    assert (step.phase, step.num_tokens) == (phase, num_tokens)
