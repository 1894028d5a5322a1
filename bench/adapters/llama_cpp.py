"""llama.cpp: ``llama_decode`` on a batch of sequences; its high-level class does one alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from bench.adapters import Setting, Unavailable
from bench.arrays import read_arrays
from bench.gguf_model import write_gguf
from bench.timing import Stopwatch, Timing

_BATCH_LEN = 2_048  # its own default: tokens of one call, which it cuts into parts of 512
_CONTEXT_STEP = 256  # it rounds a sequence's positions up to this


class Batch:
    """Room for tokens of one call, filled through numpy so that filling takes no time."""

    def __init__(self, num_tokens: int) -> None:
        self.raw = llama.llama_batch_init(num_tokens, 0, 1)
        self._tokens, self._positions, self._has_logits = (
            np.ctypeslib.as_array(field, (num_tokens,))
            for field in (self.raw.token, self.raw.pos, self.raw.logits)
        )
        for index in range(num_tokens):
            self.raw.n_seq_id[index] = 1

    def fill(self, sequences: Sequence[int], tokens: Any, positions: Any, has_logits: Any) -> None:
        """Tokens of these sequences, each entry one token."""
        count = self.raw.n_tokens = len(sequences)
        self._tokens[:count] = tokens
        self._positions[:count] = positions
        self._has_logits[:count] = has_logits
        for index, sequence in enumerate(sequences):
            self.raw.seq_id[index][0] = sequence

    def advance(self, tokens: NDArray[np.int64]) -> None:
        """The same sequences, one position on."""
        self._tokens[: len(tokens)] = tokens
        self._positions[: len(tokens)] += 1


class Peer:
    """One model, and a context that is made anew for every scenario."""

    def __init__(self, model: Any, vocab_size: int, num_threads: int) -> None:
        self._model = model
        self._vocab_size = vocab_size
        self._num_threads = num_threads
        self._context: Any = None

    def prepare(self, num_streams: int, total_len: int) -> None:
        """A context with room for these sequences and no more, each with a cache of its own."""
        if self._context is not None:
            llama.llama_free(self._context)
        params = llama.llama_context_default_params()
        params.n_ctx = num_streams * (-(-total_len // _CONTEXT_STEP) * _CONTEXT_STEP)
        params.n_batch = _BATCH_LEN
        params.n_seq_max = num_streams
        params.kv_unified = False
        params.n_threads = params.n_threads_batch = self._num_threads
        self._context = llama.llama_init_from_model(self._model, params)
        if self._context is None:
            raise Unavailable(f"no context for {num_streams} sequences of {total_len}")

    def generate(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> Timing:
        """Continue prompts. Picking the likeliest token, in numpy, is timed too."""
        llama.llama_memory_clear(llama.llama_get_memory(self._context), False)
        groups = self._prompt_batches(prompts)
        step = Batch(len(prompts))
        step.fill(range(len(prompts)), 0, len(prompts[0]) - 1, 1)
        drawn = []
        watch = Stopwatch()
        drawn.append(np.concatenate([self._decode(batch, rows) for batch, rows in groups]))
        watch.lap()
        for _ in range(num_tokens - 1):
            step.advance(drawn[-1])
            drawn.append(self._decode(step, len(prompts)))
            watch.lap()
        for batch in (step, *(batch for batch, _ in groups)):
            llama.llama_batch_free(batch.raw)
        return watch.timing(np.stack(drawn, axis=1).tolist())

    def _prompt_batches(self, prompts: Sequence[Sequence[int]]) -> list[tuple[Batch, int]]:
        """As many whole prompts a call as it takes; logits after the last token of each."""
        prompt_len = len(prompts[0])
        num_together = max(_BATCH_LEN // prompt_len, 1)
        batches = []
        for first in range(0, len(prompts), num_together):
            group = range(first, min(first + num_together, len(prompts)))
            batch = Batch(len(group) * prompt_len)
            places = np.tile(np.arange(prompt_len), len(group))
            batch.fill(
                [sequence for sequence in group for _ in range(prompt_len)],
                np.concatenate([prompts[sequence] for sequence in group]),
                places,
                places == prompt_len - 1,
            )
            batches.append((batch, len(group)))
        return batches

    def _decode(self, batch: Batch, num_rows: int) -> NDArray[np.int64]:
        """The likeliest next token of each row."""
        if code := llama.llama_decode(self._context, batch.raw):
            raise Unavailable(f"llama_decode returned {code}")
        logits = np.ctypeslib.as_array(
            llama.llama_get_logits(self._context), (num_rows, self._vocab_size)
        )
        likeliest: NDArray[np.int64] = logits.argmax(axis=1)
        return likeliest


def load(setting: Setting) -> Peer:
    """Convert and load."""
    arrays = read_arrays(setting.folder)
    path = setting.scratch / f"{setting.precision}.gguf"
    write_gguf(arrays, path, setting.precision)
    llama.llama_backend_init()
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    if model is None:
        raise Unavailable(f"it does not load {path.name}")
    return Peer(model, arrays.config.vocab_size, setting.num_threads)
