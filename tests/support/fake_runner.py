"""An honest fake of the runner: it keeps what a cache would hold, and checks every read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from engine.request import TokenLogprob
from engine.step import Drawn, Step, StepResult


def next_token(token_ids: Sequence[int], seed: int, choice_index: int, vocab_size: int) -> int:
    """The token after ``token_ids``: a pure function, as a seeded draw is."""
    text = f"{seed}/{choice_index}/{list(token_ids)}"
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % vocab_size


class FakeRunner:
    """Slots hold token ids instead of keys and values."""

    def __init__(self, num_slots: int, context_len: int, vocab_size: int = 50) -> None:
        self.slots: list[list[int]] = [[] for _ in range(num_slots)]
        self.context_len = context_len
        self.vocab_size = vocab_size
        self.steps: list[Step] = []

    def run(self, step: Step) -> StepResult:
        """Draw, score and classify; AssertionError if a row reads what is not there."""
        self.steps.append(step)
        for copy in step.copies:
            assert copy.length <= len(self.slots[copy.source])
            self.slots[copy.target] = self.slots[copy.source][: copy.length]
        assert len({row.slot for row in step.rows}) == len(step.rows)
        drawn, scored, classified = [], [], []
        for row in step.rows:
            assert row.token_ids
            assert row.start <= len(self.slots[row.slot])
            assert row.start + len(row.token_ids) <= self.context_len
            self.slots[row.slot] = [*self.slots[row.slot][: row.start], *row.token_ids]
            if row.sampling is not None:
                params = row.sampling.params
                drawn.append(
                    Drawn(
                        next_token(
                            self.slots[row.slot],
                            params.seed,
                            params.choice_index,
                            self.vocab_size,
                        )
                    )
                )
            if row.scoring is not None:
                known = len(self.slots[row.slot]) - len(row.token_ids) + row.scoring.offset + 1
                scored.append(
                    tuple(
                        TokenLogprob(expected_logprob(self.slots[row.slot][: known + i], token_id))
                        for i, token_id in enumerate(row.scoring.target_ids)
                    )
                )
            if row.is_classified:
                classified.append((float(sum(self.slots[row.slot])),))
        return StepResult(tuple(drawn), tuple(scored), tuple(classified))


def expected_logprob(before_ids: Sequence[int], token_id: int) -> float:
    """Of ``token_id`` after ``before_ids``: a pure function, as a model is."""
    return -float(next_token([*before_ids, token_id], 0, 0, 1_000))


def expected_tokens(
    prompt_ids: Sequence[int],
    max_tokens: int,
    *,
    seed: int = 0,
    choice_index: int = 0,
    vocab_size: int = 50,
    context_len: int,
) -> list[int]:
    """What a request generates, computed without an engine."""
    token_ids = list(prompt_ids)
    while len(token_ids) - len(prompt_ids) < max_tokens and len(token_ids) <= context_len:
        token_ids.append(next_token(token_ids, seed, choice_index, vocab_size))
    return token_ids[len(prompt_ids) :]
