"""ChunkBudget: how many prompt tokens may join a step without stalling running streams."""

from __future__ import annotations

MAX_CHUNK_LEN = 512
MIN_CHUNK_LEN = 16
STEPS_PER_CHUNK = 2.0
"""A chunk may take about as long as this many decode steps."""

_WEIGHT = 0.2  # of the newest observation in the running averages


class ChunkBudget:
    """Learns the time of a decode step and of a prompt token, and sizes chunks by them."""

    def __init__(self, max_chunk_len: int | None = None) -> None:
        self._max_chunk_len = MAX_CHUNK_LEN if max_chunk_len is None else max_chunk_len
        self._decode_step_s: float | None = None
        self._prompt_token_s: float | None = None

    def observe(self, num_decoding: int, num_prompt_tokens: int, step_s: float) -> None:
        """Take note of a finished step."""
        if num_prompt_tokens == 0:
            self._decode_step_s = _blend(self._decode_step_s, step_s)
            return
        decoding_s = self._decode_step_s or 0.0 if num_decoding else 0.0
        spent_s = max(step_s - decoding_s, 0.1 * step_s)
        self._prompt_token_s = _blend(self._prompt_token_s, spent_s / num_prompt_tokens)

    def tokens(self, num_decoding: int) -> int:
        """Prompt tokens for the next step, beside ``num_decoding`` rows that decode."""
        if not num_decoding:
            return self._max_chunk_len
        if self._decode_step_s is None or self._prompt_token_s is None:
            return min(MAX_CHUNK_LEN // 4, self._max_chunk_len)
        fitting = STEPS_PER_CHUNK * self._decode_step_s / self._prompt_token_s
        return int(min(max(fitting, MIN_CHUNK_LEN), self._max_chunk_len))


def _blend(average: float | None, value: float) -> float:
    return value if average is None else average + _WEIGHT * (value - average)
