"""LocalEngine: the same core in this process, for offline use. No event loop, no supervision."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from engine.admission import check_request
from engine.errors import RequestFailed
from engine.messages import EngineConfig
from engine.process import DEFAULT_FACTORY, find_factory
from engine.request import FinishReason, SamplingParams, TokenLogprob, TokenOutput
from engine.stream import join_outputs


@dataclass(frozen=True)
class Generation:
    """A finished request; both kinds of log probabilities are empty unless asked for."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


class LocalEngine:
    """Owns one core. ``core`` and ``info`` are open to who wants to step it alone.

    Raises EngineFailed with every problem of the checkpoint or the settings.
    """

    def __init__(self, config: EngineConfig, factory: str = DEFAULT_FACTORY) -> None:
        self.core, self.info = find_factory(factory)(config)
        self._ids = itertools.count()

    def generate(self, items: Sequence[tuple[Sequence[int], SamplingParams]]) -> list[Generation]:
        """Run all of these to their end; the results in the same order.

        Any number of them: what has no slot yet waits. Raises InvalidParams, PromptTooLong.
        """
        requests = [
            check_request(self.info, next(self._ids), prompt_ids, params)
            for prompt_ids, params in items
        ]
        outputs: dict[int, list[TokenOutput]] = {request.request_id: [] for request in requests}
        num_open = len(requests)
        self.core.submit(requests)
        while num_open:
            if not self.core.has_work:
                raise RequestFailed(f"the engine lost {num_open} requests")
            for output in self.core.step()[0]:
                outputs[output.request_id].append(output)
                num_open -= output.finish_reason is not None
        return [_fold(outputs[request.request_id]) for request in requests]


def _fold(outputs: Sequence[TokenOutput]) -> Generation:
    joined = join_outputs(outputs)
    if joined.finish_reason is None:
        raise RequestFailed("a request ended without a reason")
    return Generation(
        joined.token_ids, joined.logprobs, joined.finish_reason, joined.prompt_logprobs
    )
