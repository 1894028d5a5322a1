"""StepGraphs: one graph a bucket, from the embedding to the appended token.

Small ones are captured when the engine starts, larger ones when they are first needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from engine.device.results import Results
from engine.device.state import PATCH_ROWS, PATCH_WORDS, DeviceState, advance, apply_patch
from engine.device.stream import Graph, Stream
from engine.device.torch_decoder import Chunk, Decoder
from model.kernels.gpu.decoder import most_query_tiles

ROW_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024)
TOKEN_BUCKETS = (64, 128, 256, 512, 1_024, 2_048)
SPAN_BUCKETS = (1, 4, 16)

MAX_ROWS = ROW_BUCKETS[-1]
MAX_CHUNK_TOKENS = TOKEN_BUCKETS[-1]
MAX_SPANS = SPAN_BUCKETS[-1]


def bucket_of(count: int, buckets: tuple[int, ...]) -> int:
    """The smallest bucket that holds ``count``. Raises ValueError where none does."""
    for bucket in buckets:
        if count <= bucket:
            return bucket
    raise ValueError(f"at most {buckets[-1]} fit, got {count}")


def chunk_words(num_tokens: int, num_spans: int) -> int:
    """Words of a chunk of these bucket sizes."""
    return 3 * num_tokens + 3 * num_spans + 4 * most_query_tiles(num_tokens, num_spans)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the host writes before a replay, int32: slots of rows (B), a chunk, a patch."""

    rows: Tensor
    chunk: Tensor
    patch: Tensor

    @classmethod
    def allocate(cls, num_rows: int, device: torch.device) -> Inputs:
        """For batches of at most ``num_rows``."""

        def ints(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int32, device=device)

        words = chunk_words(MAX_CHUNK_TOKENS, MAX_SPANS)
        return cls(ints(num_rows), ints(words), ints(PATCH_ROWS, PATCH_WORDS))

    def chunk_of(self, num_tokens: int, num_spans: int) -> Chunk:
        """The chunk's parts, which lie one after the other for each pair of bucket sizes."""
        sizes = [num_tokens] * 3 + [num_spans] * 3
        words = self.chunk[: chunk_words(num_tokens, num_spans)]
        ids, slots, positions, last_rows, span_slots, draws, tiles = torch.split(
            words, [*sizes, len(words) - sum(sizes)]
        )
        return Chunk(ids, slots, positions, last_rows, span_slots, draws, tiles.view(-1, 4))


class StepGraphs:
    """Graphs by what they compute. ``hidden`` (N, C) holds the last prefill's states.

    A capture runs its work for real before: ``rest`` is called with the bucket sizes of the chunk,
    or zeros, and fills the inputs with what does no harm.
    """

    def __init__(
        self,
        stream: Stream,
        decoder: Decoder,
        state: DeviceState,
        inputs: Inputs,
        results: Results,
        hidden: Tensor,
        rest: Callable[[int, int], None],
    ) -> None:
        self._stream = stream
        self._decoder = decoder
        self._state = state
        self._inputs = inputs
        self._results = results
        self._hidden = hidden
        self._rest = rest
        self._graphs: dict[tuple[object, ...], Graph] = {}

    @property
    def num_captured(self) -> int:
        """Graphs so far."""
        return len(self._graphs)

    def patch(self) -> Graph:
        """Set up the slots of ``inputs.patch``; to be captured before any slot is in use."""
        return self._graph(("patch",), partial(apply_patch, self._state, self._inputs.patch))

    def decode(self, num_rows: int, *, is_full: bool) -> Graph:
        """One token for each of the first ``num_rows`` of ``inputs.rows``, a bucket."""
        return self._graph(("decode", num_rows, is_full), partial(self._decode, num_rows, is_full))

    def prefill(self, num_tokens: int, num_spans: int, *, is_full: bool) -> Graph:
        """A chunk of these bucket sizes."""
        key = ("prefill", num_tokens, num_spans, is_full)
        return self._graph(
            key, partial(self._prefill, num_tokens, num_spans, is_full), (num_tokens, num_spans)
        )

    def rehearse(self, num_rows: int) -> None:
        """Queue the largest steps once, without a graph: libraries and kernels get ready."""
        for is_full in (False, True):
            self._stream.run(partial(self._decode, num_rows, is_full))
            self._stream.run(partial(self._prefill, MAX_CHUNK_TOKENS, MAX_SPANS, is_full))

    def _graph(
        self, key: tuple[object, ...], work: Callable[[], None], chunk: tuple[int, int] = (0, 0)
    ) -> Graph:
        if key not in self._graphs:
            self._rest(*chunk)
            self._graphs[key] = self._stream.capture(work)
        return self._graphs[key]

    def _decode(self, num_rows: int, is_full: bool) -> None:
        state = self._state
        slots = state.live(self._inputs.rows[:num_rows])  # (B)
        ids, positions = state.last_ids(slots)
        hidden = self._decoder.decode(ids, slots, positions)  # (B, C)
        self._draw(hidden, slots, slots != state.dummy, is_full)

    def _prefill(self, num_tokens: int, num_spans: int, is_full: bool) -> None:
        chunk = self._inputs.chunk_of(num_tokens, num_spans)
        self._state.history[chunk.slots.long(), chunk.positions.long()] = chunk.ids
        hidden = self._decoder.prefill(chunk)  # (N, C)
        self._hidden[:num_tokens] = hidden
        last = hidden[chunk.last_rows.long()]  # (M, C)
        self._draw(last, chunk.span_slots.long(), chunk.draws > 0, is_full)

    def _draw(self, hidden: Tensor, slots: Tensor, draws: Tensor, is_full: bool) -> None:
        """Draw, append and report, where ``draws`` (B) holds."""
        drawn = self._decoder.draw(hidden, self._state, slots, is_full)
        tokens, goes_on = advance(self._state, slots, drawn.ids, draws)
        self._results.write(tokens, goes_on, drawn)
