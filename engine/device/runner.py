"""DeviceRunner: launches become device work, tickets become results. Never looks before it must."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch

from engine.device.graphs import (
    MAX_CHUNK_TOKENS,
    MAX_ROWS,
    MAX_SPANS,
    ROW_BUCKETS,
    SPAN_BUCKETS,
    TOKEN_BUCKETS,
    Inputs,
    StepGraphs,
    bucket_of,
    chunk_words,
)
from engine.device.launch import DecodeLaunch, Launch, PrefillLaunch, RowResult, SlotSetup
from engine.device.results import Results, Ticket, TokenRing, drawn_token
from engine.device.scoring import Scorer, Scores
from engine.device.staging import Staging, Words
from engine.device.state import PATCH_ROWS, DeviceState, patch_words
from engine.device.stream import Marker, Stream
from engine.device.torch_decoder import Decoder
from engine.step import PrefixCopy, StepRow
from model.attention import Span
from model.kernels.gpu.decoder import most_query_tiles, query_tiles
from model.slot_cache import SlotCache

RING_DEPTH = 16
"""Launches on their way: the longest run-ahead, and prefills between."""

FULL_ROWS_AT_START = 16


@dataclass(frozen=True, slots=True)
class Flight:
    """A queued launch, and where its results will be."""

    launch: Launch
    ticket: Ticket
    scores: Scores | None = None

    @property
    def is_landed(self) -> bool:
        """Whether :meth:`DeviceRunner.collect` would return at once."""
        return self.ticket.end.is_reached

    @property
    def device_s(self) -> float:
        """What it took the device, once it has landed."""
        return self.ticket.end.since(self.ticket.start)


class DeviceRunner:
    """Owns the stream, the state and the graphs. ``cache`` has one slot more, the dummy."""

    def __init__(
        self,
        stream: Stream,
        decoder: Decoder,
        cache: SlotCache,
        num_channels: int,
        max_rows: int = MAX_ROWS,
    ) -> None:
        device, num_slots = stream.device, cache.num_slots - 1
        self.cache = cache
        self.state = DeviceState.allocate(num_slots, cache.num_positions, device)
        self._stream = stream
        self._staging = Staging(stream)
        self._max_rows = bucket_of(max_rows, ROW_BUCKETS)
        self._inputs = Inputs.allocate(self._max_rows, device)
        results = Results.allocate(max(self._max_rows, MAX_SPANS), device)
        hidden = torch.zeros(MAX_CHUNK_TOKENS, num_channels, device=device)
        self.graphs = StepGraphs(
            stream, decoder, self.state, self._inputs, results, hidden, self._rest
        )
        self._ring = TokenRing(stream, results, RING_DEPTH)
        self._scorer = Scorer(stream, self._staging, decoder, hidden)
        self._rows: tuple[int, ...] = ()
        stream.join()
        self._staging.send(self._inputs.patch, patch_words((), self.state.dummy))
        self._patch = self.graphs.patch()

    @property
    def num_free_launches(self) -> int:
        """Launches that may still be queued before one is collected."""
        return self._ring.num_free

    def prepare(self, num_rows: int) -> None:
        """Capture the graphs of batches up to ``num_rows``, and of prompts that come alone.

        Full draws of more than FULL_ROWS_AT_START rows are left for when they are needed.
        """
        for is_full, most in ((False, num_rows), (True, min(num_rows, FULL_ROWS_AT_START))):
            for bucket in ROW_BUCKETS:
                if bucket <= min(most, self._max_rows):
                    self.graphs.decode(bucket, is_full=is_full)
            for num_tokens in TOKEN_BUCKETS:
                self.graphs.prefill(num_tokens, SPAN_BUCKETS[0], is_full=is_full)

    def rehearse(self) -> None:
        """Run the largest steps once, on the dummy slot alone."""
        self._rest(MAX_CHUNK_TOKENS, MAX_SPANS)
        self.graphs.rehearse(self._max_rows)
        self._stream.mark().wait()

    def _rest(self, num_tokens: int, num_spans: int) -> None:
        """Inputs of nobody: padding rows, and a chunk of padding where it has a size."""
        self._send_rows(())
        if num_tokens:
            words = chunk_lines((), num_tokens, num_spans, self.state.dummy)
            self._staging.send(self._inputs.chunk, words)

    # -- launches --------------------------------------------------------------------------

    def prefill(self, launch: PrefillLaunch) -> Flight:
        """Queue a chunk: set slots up, copy prefixes, compute, draw where a prompt is whole."""
        start = self._stream.mark()
        self._set_up(launch.setups)
        for copy in launch.step.copies:
            self._stream.run(partial(_copy_prefix, self.cache, self.state, copy))
        rows = launch.step.rows
        num_tokens = bucket_of(launch.step.num_tokens, TOKEN_BUCKETS)
        num_spans = bucket_of(len(rows), SPAN_BUCKETS)
        graph = self.graphs.prefill(num_tokens, num_spans, is_full=launch.needs_full)
        words = chunk_lines(rows, num_tokens, num_spans, self.state.dummy)
        self._staging.send(self._inputs.chunk, words)
        graph.replay()
        scores = self._scorer.queue(rows)
        return Flight(launch, self._bring(launch, start), scores)

    def decode(self, launch: DecodeLaunch) -> Flight:
        """Queue one more token for each row."""
        start = self._stream.mark()
        slots = tuple(sequence.slot for sequence in launch.sequences)
        bucket = bucket_of(len(slots), ROW_BUCKETS)
        graph = self.graphs.decode(bucket, is_full=launch.needs_full)
        if slots != self._rows:
            self._send_rows(slots)
        graph.replay()
        return Flight(launch, self._bring(launch, start))

    def _bring(self, launch: Launch, start: Marker) -> Ticket:
        has_details = launch.num_logprobs is not None
        return self._ring.bring(len(launch.sequences), start, has_details=has_details)

    def _set_up(self, setups: Sequence[SlotSetup]) -> None:
        for first in range(0, len(setups), PATCH_ROWS):
            group = setups[first : first + PATCH_ROWS]
            self._staging.send(self._inputs.patch, patch_words(group, self.state.dummy))
            self._patch.replay()
        for setup in setups:
            if setup.params.logit_bias:
                self._send_bias(setup)

    def _send_bias(self, setup: SlotSetup) -> None:
        ids, biases = zip(*setup.params.logit_bias, strict=True)
        self._staging.send(self.state.bias_ids[setup.slot], np.array(ids, dtype=np.int32))
        target = self.state.biases[setup.slot].view(torch.int32)
        self._staging.send(target, np.array(biases, dtype=np.float32).view(np.int32))

    def _send_rows(self, slots: tuple[int, ...]) -> None:
        """Who decodes from now on; the rest of every bucket is padding."""
        words = np.full(self._max_rows, self.state.dummy, dtype=np.int32)
        words[: len(slots)] = slots
        self._staging.send(self._inputs.rows, words)
        self._rows = slots

    # -- results ---------------------------------------------------------------------------

    def collect(self, flight: Flight) -> tuple[RowResult, ...]:
        """Wait for a launch and read what it brought, a result for each of its sequences."""
        tokens, details = self._ring.take(flight.ticket)
        launch, scored = flight.launch, self._scorer.read(flight.scores)
        rows = launch.step.rows if isinstance(launch, PrefillLaunch) else ()
        counts = [len(row.scoring.target_ids) if row.scoring else 0 for row in rows]
        results = []
        for i, (sequence, (token_id, goes_on)) in enumerate(
            zip(launch.sequences, tokens, strict=True)
        ):
            num_logprobs = sequence.request.params.num_logprobs
            token = drawn_token(token_id, details[i], num_logprobs)
            own = tuple(islice(scored, counts[i])) if counts else ()
            results.append(RowResult(token, goes_on > 0, own))
        return tuple(results)


def _copy_prefix(cache: SlotCache, state: DeviceState, copy: PrefixCopy) -> None:
    cache.copy_prefix(copy.source, copy.target, copy.length)
    state.history[copy.target, : copy.length] = state.history[copy.source, : copy.length]


def chunk_lines(rows: Sequence[StepRow], num_tokens: int, num_spans: int, dummy: int) -> Words:
    """A chunk of these bucket sizes as words, in the order of Chunk's fields."""
    words = np.zeros(chunk_words(num_tokens, num_spans), dtype=np.int32)
    ids, slots, positions = words[: 3 * num_tokens].reshape(3, -1)
    end_of_spans = 3 * (num_tokens + num_spans)
    last_rows, span_slots, draws = words[3 * num_tokens : end_of_spans].reshape(3, -1)
    spans = [Span(row.slot, row.start, len(row.token_ids)) for row in rows]
    tiles = query_tiles(spans, most_query_tiles(num_tokens, num_spans))
    words[end_of_spans:] = tiles.numpy().reshape(-1)
    slots[:], span_slots[:] = dummy, dummy
    for i, (row, start, end) in enumerate(_places(rows)):
        ids[start:end] = row.token_ids
        slots[start:end] = row.slot
        positions[start:end] = np.arange(row.start, row.start + end - start)
        last_rows[i], span_slots[i], draws[i] = end - 1, row.slot, row.sampling is not None
    return words


def _places(rows: Sequence[StepRow]) -> Iterator[tuple[StepRow, int, int]]:
    """Each row, and where in N it begins and ends."""
    end = 0
    for row in rows:
        start, end = end, end + len(row.token_ids)
        yield row, start, end
