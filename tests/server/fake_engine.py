"""An honest fake of EngineClient: no model, the same contract. Ids follow from prompt and seed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.errors import EngineError, EngineFailed, QueueFull, RequestFailed
from engine.messages import EngineStats, ModelInfo
from engine.request import (
    FinishReason,
    RequestTimes,
    SamplingParams,
    TaskParams,
    TokenLogprob,
    TokenOutput,
)
from engine.stream import RequestStream

VOCAB_SIZE = 300
EOS_ID = 299

INFO = ModelInfo(
    vocab_size=VOCAB_SIZE,
    context_len=64,
    num_parameters=1_000,
    num_layers=2,
    num_channels=8,
    num_heads=2,
    eos_token_ids=(EOS_ID,),
    weights_hash="abc",
    device="cpu",
    dtype="float32",
    kv_dtype="float32",
    kernels="torch",
    num_slots=4,
    slot_bytes=1_000,
    num_threads=1,
    fingerprint="fp-test",
    source="a test",
)


def draw(prompt_ids: Sequence[int], params: SamplingParams) -> list[int]:
    """What the fake "model" answers: the same for the same prompt, seed and choice."""
    rng = random.Random(f"{tuple(prompt_ids)} {params.seed} {params.choice_index}")
    return [rng.randrange(VOCAB_SIZE - 1) for _ in range(params.max_tokens)]


@dataclass
class FakeEngine:
    """Feeds each stream from a task. ``script`` replaces the drawn ids; ``gate``, if given, lets
    one token of each stream through per release."""

    script: Callable[[Sequence[int], SamplingParams], list[int]] = draw
    info: ModelInfo | None = INFO
    gate: asyncio.Semaphore | None = None
    tokens_per_output: int = 1
    refusal: EngineError | None = None
    is_full: bool = False
    fail_after: int | None = None
    failure: EngineFailed | None = None
    is_up: bool = True
    is_ready: bool = True
    num_restarts: int = 0
    stats: EngineStats = field(default_factory=EngineStats)
    on_stats: list[Callable[[EngineStats], None]] = field(default_factory=list)
    on_failure: list[Callable[[EngineFailed], None]] = field(default_factory=list)
    submitted: list[tuple[tuple[int, ...], SamplingParams]] = field(default_factory=list)
    classified: list[tuple[tuple[int, ...], TaskParams]] = field(default_factory=list)
    priorities: list[int] = field(default_factory=list)
    aborted: list[int] = field(default_factory=list)
    was_aborted: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    streams: list[RequestStream] = field(default_factory=list)

    def start(self) -> None:
        """The real one starts a process."""

    def fail_all(self, why: str) -> None:
        for stream, task in zip(self.streams, self.tasks, strict=True):
            task.cancel()
            stream.fail(RequestFailed(why))

    async def close(self) -> None:
        """The real one ends it."""

    async def ready(self) -> ModelInfo:
        if self.failure is not None or self.info is None:
            raise self.failure or EngineFailed(["no model"])
        return self.info

    def check_queue(self) -> None:
        if self.is_full:
            raise QueueFull("no room", 3.0)

    def submit_all(
        self,
        items: Sequence[tuple[Sequence[int], SamplingParams | TaskParams]],
        priority: int = 0,
        /,
    ) -> list[RequestStream]:
        if self.refusal is not None:
            raise self.refusal
        self.priorities += [priority] * len(items)
        return [
            self._classify(tuple(ids), params)
            if isinstance(params, TaskParams)
            else self._submit(tuple(ids), params)
            for ids, params in items
        ]

    def _classify(self, ids: tuple[int, ...], params: TaskParams) -> RequestStream:
        """Logits that tell which sequence it was: each is the part, the length, the index."""
        stream = RequestStream(len(self.submitted), self._abort)
        self.submitted.append((ids, SamplingParams(max_tokens=0)))
        self.classified.append((ids, params))
        self.streams.append(stream)
        self.tasks.append(asyncio.create_task(self._answer(stream, ids, params)))
        return stream

    async def _answer(
        self, stream: RequestStream, ids: tuple[int, ...], params: TaskParams
    ) -> None:
        await (self.gate.acquire() if self.gate is not None else asyncio.sleep(0))
        if self.fail_after is not None:
            stream.fail(RequestFailed("the engine lost it"))
            return
        assert self.info is not None
        (config,) = (task.config for task in self.info.tasks if task.name == params.name)
        logits = tuple(0.01 * sum(ids) + i for i in range(max(1, len(config["labels"]))))
        if config["is_regression"]:
            logits = (0.25,)
        reason = FinishReason.LENGTH
        times = RequestTimes(0.001, 0.002, 0.0)
        stream.push(TokenOutput(stream.request_id, (), (), reason, 3, times, logits=logits))

    def _submit(self, prompt_ids: tuple[int, ...], params: SamplingParams) -> RequestStream:
        stream = RequestStream(len(self.submitted), self._abort)
        self.submitted.append((prompt_ids, params))
        self.streams.append(stream)
        self.tasks.append(asyncio.create_task(self._feed(stream, prompt_ids, params)))
        return stream

    def _abort(self, request_id: int) -> None:
        self.aborted.append(request_id)
        self.tasks[request_id].cancel()
        self.was_aborted.set()

    async def _score(
        self, stream: RequestStream, prompt_ids: tuple[int, ...], params: SamplingParams
    ) -> bool:
        """Log probabilities of the prompt, ``tokens_per_output`` at a time; whether that is all."""
        is_all = params.max_tokens == 0
        scored: tuple[TokenLogprob, ...] = ()
        if params.num_prompt_logprobs is not None:
            num_top = params.num_prompt_logprobs
            scored = tuple(prompt_logprob(i, num_top) for i in prompt_ids[params.scored_from :])
        for start in range(0, max(len(scored), is_all), self.tokens_per_output):
            await asyncio.sleep(0)
            part = scored[start : start + self.tokens_per_output]
            is_last = is_all and start + len(part) >= len(scored)
            reason = FinishReason.LENGTH if is_last else None
            output = TokenOutput(stream.request_id, (), finish_reason=reason, prompt_logprobs=part)
            stream.push(output)
        return is_all

    async def _feed(
        self, stream: RequestStream, prompt_ids: tuple[int, ...], params: SamplingParams
    ) -> None:
        if await self._score(stream, prompt_ids, params):
            return
        ids = self.script(prompt_ids, params)
        for start in range(0, len(ids), self.tokens_per_output):
            await (self.gate.acquire() if self.gate is not None else asyncio.sleep(0))
            if self.fail_after is not None and start >= self.fail_after:
                stream.fail(RequestFailed("the engine lost it"))
                return
            part = tuple(ids[start : start + self.tokens_per_output])
            is_stop = part[-1] in {EOS_ID, *params.stop_token_ids}
            is_last = is_stop or start + len(part) >= len(ids)
            is_stop = is_stop or (is_last and bool(params.grammar))  # then it is complete
            reason = FinishReason.STOP if is_stop else FinishReason.LENGTH
            stream.push(
                TokenOutput(
                    stream.request_id,
                    part,
                    logprobs=tuple(
                        _logprob(i, params) for i in part if params.num_logprobs is not None
                    ),
                    finish_reason=reason if is_last else None,
                    num_cached_tokens=min(2, len(prompt_ids)),
                    times=RequestTimes(0.001, 0.002, 0.003) if is_last else None,
                )
            )
            for listener in self.on_stats:
                listener(EngineStats(step_s=0.001, num_rows=1, num_step_tokens=1, num_running=1))
            if is_last:
                return


def prompt_logprob(token_id: int, num_top: int) -> TokenLogprob:
    """Of a token of the prompt; of the alternatives, 1 is impossible."""
    top = tuple((k, float("-inf") if k == 1 else -0.5 * k) for k in range(num_top))
    return TokenLogprob(-1.5 - token_id / 1000, top)


def _logprob(token_id: int, params: SamplingParams) -> TokenLogprob:
    return prompt_logprob(token_id, params.num_logprobs or 0)
