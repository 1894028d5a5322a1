"""The decoder of model/kernels/gpu behind the graphs, by kernels or by their references."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.admission import MAX_LOGPROBS
from engine.device.sampling import DrawnRows, draws_of, filters_of
from engine.device.state import DeviceState
from engine.device.torch_decoder import Chunk
from model.kernels.gpu.buffers import Chosen, QueryTiles, Rows, TileBest, Workspace
from model.kernels.gpu.decoder import GPUDecoder


class KernelDecoder:
    """Owns the workspace of every graph: they never run at once.

    ``max_rows`` bounds a decode step and ``max_tokens`` a chunk.
    """

    def __init__(self, decoder: GPUDecoder, max_rows: int, max_tokens: int) -> None:
        config, cache = decoder.config, decoder.cache
        head = decoder.weights.lm_head
        device, most = head.device, max(max_rows, max_tokens)
        self._decoder = decoder
        self._work = Workspace.allocate(config, most, cache.num_positions, head.dtype, device)
        self._all_rows = torch.arange(most, dtype=torch.int32, device=device)
        self._best = TileBest.allocate(
            most, config.vocab_size, config.num_channels, head.dtype, str(device)
        )
        self._num_top = min(MAX_LOGPROBS, config.vocab_size)

    def decode(self, ids: Tensor, slots: Tensor, positions: Tensor) -> Tensor:
        """See Decoder."""
        rows = Rows(ids.int(), slots.int(), positions.int())
        return self._decoder.decode(rows, self._work)

    def prefill(self, chunk: Chunk) -> Tensor:
        """See Decoder."""
        rows = Rows(chunk.ids, chunk.slots, chunk.positions)
        wanted = self._all_rows[: len(chunk.ids)]
        return self._decoder.prefill(rows, QueryTiles(chunk.tiles), wanted, self._work)

    def draw(self, hidden: Tensor, state: DeviceState, slots: Tensor, is_full: bool) -> DrawnRows:
        """See Decoder."""
        draws = draws_of(state, slots)
        if not is_full:
            ids = torch.empty(len(slots), dtype=torch.int32, device=hidden.device)
            self._decoder.draw(hidden, draws, self._best, ids)
            return DrawnRows(ids)
        logits = self.logits(hidden)
        chosen = Chosen.allocate(len(slots), logits.shape[1], self._num_top, logits.device)
        self._decoder.sample(logits, draws, filters_of(state, slots), chosen)
        return DrawnRows(chosen.ids, chosen.logprobs, chosen.top_ids, chosen.top_logprobs)

    def logits(self, hidden: Tensor) -> Tensor:
        """See Decoder."""
        vocab_size = len(self._decoder.weights.lm_head)
        out = torch.empty(len(hidden), vocab_size, device=hidden.device)
        self._decoder.logits(hidden, out)
        return out
