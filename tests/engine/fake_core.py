"""An honest small engine core: slots, a queue, keyed tokens, and trouble on request.

What it does is written as JSON where a real configuration has the path of the checkpoint, so
the same configuration works in this process and in an engine process.
"""

from __future__ import annotations

import os
import signal
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from engine.errors import EngineFailed
from engine.messages import EngineConfig, EngineStats, ModelInfo, StepBegins
from engine.request import FinishReason, Request, SamplingParams, TokenLogprob, TokenOutput

FACTORY = "tests.engine.fake_core:build"
VOCAB_SIZE = 100
DIE_ID, RAISE_ID, WEDGE_ID = 90, 91, 92
"""A prompt with one of these kills the process, breaks the step, or (until resumed) hangs it."""


class Behaviour(msgspec.Struct, frozen=True):
    """``gate``: a FIFO; loading waits for its writer, and is refused with what that one wrote."""

    num_slots: int = 4
    context_len: int = 64
    step_s: float = 0.0
    refuse: tuple[str, ...] = ()
    break_load: bool = False
    gate: str | None = None
    fingerprint_is_pid: bool = False


def fake_config(
    behaviour: Behaviour | None = None,
    max_queued_requests: int = 256,
    max_queued_tokens: int = 131_072,
) -> EngineConfig:
    return EngineConfig(
        checkpoint=msgspec.json.encode(behaviour or Behaviour()).decode(),
        max_queued_requests=max_queued_requests,
        max_queued_tokens=max_queued_tokens,
    )


def next_token(request: Request, output_ids: tuple[int, ...]) -> int:
    """Depends on everything that a resumed request must bring along."""
    params = request.params
    key = (params.seed, params.choice_index, request.prompt_ids, output_ids)
    return zlib.crc32(repr(key).encode()) % VOCAB_SIZE


def expected_ids(prompt_ids: tuple[int, ...], params: SamplingParams) -> tuple[int, ...]:
    """What an undisturbed engine brings."""
    request = Request(0, prompt_ids, params)
    ids: tuple[int, ...] = ()
    while len(ids) < params.max_tokens:
        ids += (next_token(request, ids),)
    return ids


class FakeCore:
    def __init__(self, behaviour: Behaviour) -> None:
        self.on_step: Callable[[StepBegins], None] | None = None
        self._behaviour = behaviour
        self._requests: dict[int, Request] = {}
        self._output_ids: dict[int, tuple[int, ...]] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    @property
    def stats(self) -> EngineStats:
        num_running = min(len(self._requests), self._behaviour.num_slots)
        return EngineStats(
            step_s=self._behaviour.step_s,
            num_rows=num_running,
            num_step_tokens=num_running,
            num_running=num_running,
            num_waiting=len(self._requests) - num_running,
            num_slots_in_use=num_running,
        )

    def submit(self, requests: Iterable[Request]) -> None:
        for request in requests:
            assert request.request_id not in self._requests
            self._requests[request.request_id] = request
            self._output_ids[request.request_id] = request.emitted_ids

    def abort(self, request_ids: Iterable[int]) -> None:
        for request_id in request_ids:
            self._requests.pop(request_id, None)

    def step(self) -> tuple[list[TokenOutput], EngineStats]:
        running = list(self._requests.values())[: self._behaviour.num_slots]
        if self.on_step is not None:
            ids = tuple(request.request_id for request in running)
            self.on_step(StepBegins(ids, len(ids), "decode"))
        for request in running:
            self._make_trouble(request)
        time.sleep(self._behaviour.step_s)
        outputs = [self._advance(request) for request in running]
        return outputs, self.stats

    def _make_trouble(self, request: Request) -> None:
        if DIE_ID in request.prompt_ids:
            os.kill(os.getpid(), signal.SIGKILL)
        if RAISE_ID in request.prompt_ids:
            ids = list(request.prompt_ids[1:])
            raise RuntimeError(f"a step that breaks, as asked for by a test: {ids}")
        is_under_way = len(self._output_ids[request.request_id]) == 2
        if WEDGE_ID in request.prompt_ids and is_under_way and not request.emitted_ids:
            time.sleep(3600)

    def _advance(self, request: Request) -> TokenOutput:
        ids = self._output_ids[request.request_id]
        token_id = next_token(request, ids)
        ids += (token_id,)
        self._output_ids[request.request_id] = ids
        is_last = len(ids) == request.params.max_tokens
        if is_last:
            del self._requests[request.request_id]
        return TokenOutput(
            request.request_id,
            (token_id,),
            (TokenLogprob(-float(token_id)),),
            FinishReason.LENGTH if is_last else None,
        )


def build(config: EngineConfig) -> tuple[FakeCore, ModelInfo]:
    behaviour = msgspec.json.decode(config.checkpoint, type=Behaviour)
    if behaviour.gate is not None:
        problem = Path(behaviour.gate).read_text()
        if problem:
            raise EngineFailed([problem])
    if behaviour.refuse:
        raise EngineFailed(list(behaviour.refuse))
    if behaviour.break_load:
        raise OSError("the disk is on fire")
    return FakeCore(behaviour), fake_info(behaviour)


def fake_info(behaviour: Behaviour) -> ModelInfo:
    return ModelInfo(
        vocab_size=VOCAB_SIZE,
        context_len=behaviour.context_len,
        num_parameters=0,
        num_layers=1,
        num_channels=1,
        num_heads=1,
        eos_token_ids=(),
        weights_hash="0",
        device="cpu",
        dtype="float32",
        kv_dtype="float32",
        kernels="torch",
        num_slots=behaviour.num_slots,
        slot_bytes=1,
        num_threads=1,
        fingerprint=f"fp_{os.getpid()}" if behaviour.fingerprint_is_pid else "fp",
        source="fake",
    )
