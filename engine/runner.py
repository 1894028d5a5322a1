"""Runner: a Step becomes tensors, the tensors become token ids."""

from __future__ import annotations

import torch

from engine.step import Drawn, SamplingState, Step
from model.attention import Span
from model.decoder import GPT
from model.kernels.native import AttentionFactory
from model.sampler import SamplingRow, sample
from model.slot_cache import SlotCache


class Runner:
    """Owns the network and the cache. Holds nothing of a request between steps."""

    def __init__(self, gpt: GPT, cache: SlotCache, attention: AttentionFactory) -> None:
        self.gpt = gpt
        self.cache = cache
        self._attention = attention

    @torch.inference_mode()
    def run(self, step: Step) -> list[Drawn]:
        """Compute a step: one drawn token for each row with ``sampling``, in order."""
        for copy in step.copies:
            self.cache.copy_prefix(copy.source, copy.target, copy.length)
        spans = [Span(row.slot, row.start, len(row.token_ids)) for row in step.rows]
        ids = torch.tensor([token_id for row in step.rows for token_id in row.token_ids])  # (N)
        positions = torch.tensor([p for span in spans for p in range(span.start, span.end)])
        hidden = self.gpt(ids, positions, self._attention(spans))  # (N, C)
        states, last = _sampling_rows(step)
        if not states:
            return []
        logits = self.gpt.logits(hidden[last])  # (B, V)
        drawn = sample(logits, [_sampling_row(state) for state in states])
        return [Drawn(one.token_id, one.logprob, one.top) for one in drawn]


def _sampling_rows(step: Step) -> tuple[list[SamplingState], list[int]]:
    """The rows that draw, and where in N their last token stands."""
    states, last, end = [], [], 0
    for row in step.rows:
        end += len(row.token_ids)
        if row.sampling is not None:
            states.append(row.sampling)
            last.append(end - 1)
    return states, last


def _sampling_row(state: SamplingState) -> SamplingRow:
    params = state.params
    return SamplingRow(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        seed=params.seed,
        choice_index=params.choice_index,
        token_index=state.token_index,
        banned_ids=state.banned_ids,
        logit_bias=params.logit_bias,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        prompt_ids=state.prompt_ids,
        output_ids=state.output_ids,
        num_logprobs=params.num_logprobs,
    )
