"""Our engine, stepped without a process of its own around it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import psutil

from bench.adapters import Setting
from bench.timing import Stopwatch, Timing
from engine.local import LocalEngine
from engine.messages import EngineConfig
from engine.request import Request, SamplingParams


class OurEngine:
    """The core that the server runs, with the server's scheduler and chunks."""

    def __init__(self, config: EngineConfig) -> None:
        engine = LocalEngine(config)
        self.core, self.info = engine.core, engine.info
        self._ids = itertools.count()

    def prepare(self, num_streams: int, total_len: int) -> None:
        """Nothing to do: there is a slot of full length for each."""

    def generate(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> Timing:
        """Continue prompts.

        A row whose prompt was computed early decodes beside the others' prompts; that is counted
        as prefill. From the first token of the last row on, all rows take the same number of
        steps as in a static batch; then they are aborted.
        """
        first_id = self._submit(prompts, self.info.context_len - len(prompts[0]))
        rows: list[list[int]] = [[] for _ in prompts]
        watch = Stopwatch()
        while not all(rows):
            self._step(rows, first_id)
        watch.lap()
        for _ in range(num_tokens - 1):
            self._step(rows, first_id)
            watch.lap()
        self.core.abort(range(first_id, first_id + len(prompts)))
        return watch.timing([row[:num_tokens] for row in rows])

    def late_arrival(
        self, prompts: Sequence[Sequence[int]], late: Sequence[int], num_tokens: int
    ) -> tuple[float, float]:
        """Submit ``late`` once the others decode: seconds to its first token, and to their end."""
        self._submit(prompts, num_tokens)
        while self.core.step()[1].phase != "decode":
            pass
        late_id = self._submit([late], 1)
        started_s = time.perf_counter()
        first_token_s = 0.0
        while self.core.has_work:
            if any(output.request_id == late_id for output in self.core.step()[0]):
                first_token_s = time.perf_counter() - started_s
        return first_token_s, time.perf_counter() - started_s

    def resident_bytes(self) -> int:
        """Of this process."""
        return int(psutil.Process().memory_info().rss)

    def cache_bytes(self) -> int:
        """Of all slots, whether touched or not."""
        return self.info.slot_bytes * self.info.num_slots

    def _submit(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> int:
        """The id of the first; those of the others follow."""
        params = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
        requests = [Request(next(self._ids), tuple(prompt), params) for prompt in prompts]
        self.core.submit(requests)
        return requests[0].request_id

    def _step(self, rows: list[list[int]], first_id: int) -> None:
        for output in self.core.step()[0]:
            rows[output.request_id - first_id].extend(output.token_ids)


def load(setting: Setting) -> OurEngine:
    """Load the checkpoint as the server does. Raises EngineFailed."""
    return OurEngine(
        EngineConfig(
            str(setting.folder),
            dtype=setting.precision,
            num_slots=setting.max_streams,
            num_threads=setting.num_threads,
            max_context=setting.max_context,
        )
    )
