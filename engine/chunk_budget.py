"""ChunkBudget: how many prompt tokens may join a step without stalling running streams."""

from __future__ import annotations

import statistics
from collections import deque

MAX_CHUNK_LEN = 512
MIN_CHUNK_LEN = 16
STEPS_PER_CHUNK = 2.0
"""A chunk may take about as long as this many decode steps."""

_NUM_KEPT = 9  # observations, of which the median counts


class ChunkBudget:
    """Learns the time of a decode step and of a prompt token, and sizes chunks by them.

    Both are medians of the last few. While prompts come in no step only decodes, so one that was
    held up, as when sixty requests arrive at once, would otherwise size all of their chunks.
    """

    def __init__(self, max_chunk_len: int | None = None) -> None:
        self._max_chunk_len = MAX_CHUNK_LEN if max_chunk_len is None else max_chunk_len
        self._decode_steps_s: deque[float] = deque(maxlen=_NUM_KEPT)
        self._prompt_tokens_s: deque[float] = deque(maxlen=_NUM_KEPT)

    def observe(self, num_decoding: int, num_prompt_tokens: int, step_s: float) -> None:
        """Take note of a finished step."""
        if num_prompt_tokens == 0:
            self._decode_steps_s.append(step_s)
            return
        decoding_s = 0.0
        if num_decoding and self._decode_steps_s:
            decoding_s = statistics.median(self._decode_steps_s)
        spent_s = max(step_s - decoding_s, 0.1 * step_s)
        self._prompt_tokens_s.append(spent_s / num_prompt_tokens)

    def tokens(self, num_decoding: int) -> int:
        """Prompt tokens for the next step, beside ``num_decoding`` rows that decode."""
        if not num_decoding:
            return self._max_chunk_len
        if not self._decode_steps_s or not self._prompt_tokens_s:
            return min(MAX_CHUNK_LEN // 4, self._max_chunk_len)
        decode_step_s = statistics.median(self._decode_steps_s)
        fitting = STEPS_PER_CHUNK * decode_step_s / statistics.median(self._prompt_tokens_s)
        return int(min(max(fitting, MIN_CHUNK_LEN), self._max_chunk_len))
