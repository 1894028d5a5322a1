"""RequestStream: what a reader holds of one admitted request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from engine.errors import EngineError, RequestFailed
from engine.request import FinishReason, TokenOutput

MAX_UNREAD_TOKENS = 4096


def join_outputs(outputs: Sequence[TokenOutput]) -> TokenOutput:
    """Several consecutive outputs of one request as the one that a slower reader would see."""
    if len(outputs) == 1:
        return outputs[0]
    return TokenOutput(
        request_id=outputs[0].request_id,
        token_ids=tuple(token_id for output in outputs for token_id in output.token_ids),
        logprobs=tuple(logprob for output in outputs for logprob in output.logprobs),
        prompt_logprobs=tuple(one for output in outputs for one in output.prompt_logprobs),
        finish_reason=outputs[-1].finish_reason,
        num_cached_tokens=max(output.num_cached_tokens for output in outputs),
        times=outputs[-1].times,
        logits=outputs[-1].logits,
    )


class RequestStream:
    """An asynchronous iterator of TokenOutput, for one reader.

    The last output has a ``finish_reason``, always, unless the request is lost: then what had
    arrived is followed by one RequestFailed, or KillsEngine. Outputs that come faster than they
    are read are joined, so a slow reader gets fewer and larger ones; a reader that leaves more
    than ``max_unread_tokens`` loses the request. Nothing here waits for the engine.
    """

    def __init__(
        self,
        request_id: int,
        on_abort: Callable[[int], None],
        max_unread_tokens: int = MAX_UNREAD_TOKENS,
    ) -> None:
        self.request_id = request_id
        self._on_abort = on_abort
        self._max_unread_tokens = max_unread_tokens
        self._unread: list[TokenOutput] = []
        self._num_unread_tokens = 0
        self._is_ended = False
        self._error: EngineError | None = None
        self._changed = asyncio.Event()

    def __aiter__(self) -> RequestStream:
        return self

    async def __anext__(self) -> TokenOutput:
        while not self._unread:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._is_ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        joined = join_outputs(self._unread)
        self._unread.clear()
        self._num_unread_tokens = 0
        return joined

    def abort(self, reason: FinishReason = FinishReason.ABORT) -> None:
        """The reader wants no more; the engine is told at once.

        A plain call, safe in ``finally``, safe twice and after the end. Who reads on gets what
        had come, and a last output with ``reason``.
        """
        if self._is_ended:
            return
        self.push(TokenOutput(self.request_id, (), finish_reason=reason))
        self._on_abort(self.request_id)

    def push(self, output: TokenOutput) -> None:
        """Hand over what the engine sent (the client calls this). Ignored after the end."""
        if self._is_ended:
            return
        self._unread.append(output)
        self._num_unread_tokens += len(output.token_ids)
        self._is_ended = output.finish_reason is not None
        self._changed.set()
        if self._num_unread_tokens > self._max_unread_tokens and not self._is_ended:
            limit = self._max_unread_tokens
            self.fail(RequestFailed(f"a reader may leave at most {limit} tokens unread"))
            self._on_abort(self.request_id)

    def fail(self, error: EngineError) -> None:
        """End with ``error`` (the client calls this). Ignored after the end."""
        if self._is_ended:
            return
        self._error = error
        self._is_ended = True
        self._changed.set()
