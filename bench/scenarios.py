"""What is measured: how many streams, how long their prompts, how many new tokens. No torch."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

PROMPT_LEN = 128
STREAMS = (1, 8, 32, 64)
PREFILLS = (512, 960)
NUM_TOKENS_ALONE = 48
NUM_TOKENS_TOGETHER = 32


@dataclass(frozen=True, slots=True)
class Scenario:
    """``num_streams`` prompts of ``prompt_len`` random tokens, ``num_tokens`` new ones each."""

    name: str
    num_streams: int
    prompt_len: int
    num_tokens: int

    @property
    def is_prefill(self) -> bool:
        """Only the time to the first token is of interest."""
        return self.num_tokens == 1

    @property
    def total_len(self) -> int:
        """Positions that a sequence needs."""
        return self.prompt_len + self.num_tokens

    def prompts(self, vocab_size: int, round_index: int) -> list[list[int]]:
        """Other prompts in every round and scenario, so that no prefix is ever known."""
        draw = random.Random(f"{self.name}/{round_index}")
        return [
            [draw.randrange(vocab_size) for _ in range(self.prompt_len)]
            for _ in range(self.num_streams)
        ]


def decoding(num_streams: int, prompt_len: int, num_tokens: int | None = None) -> Scenario:
    """``num_streams`` at once."""
    name = "one stream" if num_streams == 1 else f"{num_streams} streams"
    default = NUM_TOKENS_ALONE if num_streams == 1 else NUM_TOKENS_TOGETHER
    return Scenario(name, num_streams, prompt_len, num_tokens or default)


def prefill(prompt_len: int) -> Scenario:
    """One prompt, and its first token."""
    return Scenario(f"prefill {prompt_len}", 1, prompt_len, 1)


def fitting(scenarios: Iterable[Scenario], num_positions: int) -> tuple[list[Scenario], list[str]]:
    """Those that fit into ``num_positions``; a line for each that does not."""
    fit, left_out = [], []
    for scenario in scenarios:
        if scenario.total_len <= num_positions:
            fit.append(scenario)
        else:
            left_out.append(
                f"{scenario.name}: needs {scenario.total_len} positions, "
                f"the checkpoint has {num_positions}"
            )
    return fit, left_out
