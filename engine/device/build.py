"""From weights to a DeviceCore: the parts put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.device.core import DeviceCore
from engine.device.graphs import MAX_CHUNK_TOKENS, MAX_ROWS, MAX_SPANS
from engine.device.run_ahead import RunAhead
from engine.device.runner import DeviceRunner
from engine.device.scheduler import PipelinedScheduler
from engine.device.stream import Stream
from engine.device.torch_decoder import Decoder
from engine.slot_pool import SlotPool
from model.config import GPTConfig
from model.slot_cache import SlotCache

MakeDecoder = Callable[[SlotCache], Decoder]
"""The weights are there; the decoder is made around a cache, which comes when its size is known."""


@dataclass(frozen=True, slots=True)
class DeviceShape:
    """What is chosen for one device core.

    ``keeps_generated``: whether decode's keys and values have the bits of a prefill's.
    ``num_ahead`` fixes the run-ahead.
    """

    num_slots: int
    context_len: int
    kv_dtype: torch.dtype
    keeps_generated: bool = True
    num_ahead: int | None = None


def device_core(
    config: GPTConfig, make_decoder: MakeDecoder, stream: Stream, shape: DeviceShape
) -> DeviceCore:
    """A core on the stream's device. No step is captured yet."""
    scheduler = PipelinedScheduler(
        SlotPool(shape.num_slots),
        shape.context_len,
        config.vocab_size,
        config.eos_token_ids,
        max_chunk_len=MAX_CHUNK_TOKENS,
        max_spans=MAX_SPANS,
        max_rows=MAX_ROWS,
        keeps_generated=shape.keeps_generated,
    )
    max_rows = min(shape.num_slots, MAX_ROWS)
    runner = device_runner(config, make_decoder, stream, shape, max_rows)
    return DeviceCore(scheduler, runner, RunAhead(shape.num_ahead))


def device_runner(
    config: GPTConfig,
    make_decoder: MakeDecoder,
    stream: Stream,
    shape: DeviceShape,
    max_rows: int,
) -> DeviceRunner:
    """A runner with a cache of its own, the dummy slot included."""
    cache = SlotCache(config, shape.num_slots + 1, shape.context_len, shape.kv_dtype, stream.device)
    return DeviceRunner(stream, make_decoder(cache), cache, config.num_channels, max_rows)
