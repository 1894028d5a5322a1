"""What a draw is made of, gathered from device-resident state for the rows of a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.admission import MAX_LOGPROBS
from engine.device.state import NO_ID, DeviceState
from model.kernels.gpu.buffers import Draws, Filters


@dataclass(frozen=True, slots=True)
class DrawnRows:
    """ids (B) int64. Of full draws also the raw log probability (B), and the likeliest tokens.

    ``top_ids`` and ``top_logprobs`` are (B, K), likeliest first.
    """

    ids: Tensor
    logprobs: Tensor | None = None
    top_ids: Tensor | None = None
    top_logprobs: Tensor | None = None


def draws_of(state: DeviceState, slots: Tensor) -> Draws:
    """The noise of ``slots`` (B) int64."""
    return Draws(
        temperatures=state.temperature[slots],
        seeds=state.seed[slots],
        choice_indices=state.choice_index[slots],
        token_indices=state.length[slots] - state.prompt_len[slots],
    )


def filters_of(state: DeviceState, slots: Tensor) -> Filters:
    """What bounds the choice of ``slots`` (B) int64: no ending id while it is too early for one."""
    bias_ids = state.bias_ids[slots]  # (B, E)
    places = torch.arange(bias_ids.shape[1], device=slots.device)
    is_given = places < state.num_biases[slots].unsqueeze(1)
    is_early = (state.length[slots] < state.min_len[slots]).unsqueeze(1)  # (B, 1)
    return Filters(
        top_k=state.top_k[slots],
        top_p=state.top_p[slots],
        min_p=state.min_p[slots],
        repetition=state.repetition[slots],
        presence=state.presence[slots],
        frequency=state.frequency[slots],
        history=state.history,
        slots=slots.int(),
        prompt_lens=state.prompt_len[slots],
        lens=state.length[slots],
        bias_ids=bias_ids.masked_fill(~is_given, NO_ID),
        biases=state.biases[slots],
        banned_ids=state.ending_ids[slots].masked_fill(~is_early, NO_ID),
        num_top=state.num_top[slots],
    )


def with_logprobs(logits: Tensor, ids: Tensor) -> DrawnRows:
    """``ids`` (B) with what the raw ``logits`` (B, V) say of them and of the likeliest."""
    logprobs = logits.double().log_softmax(-1)
    own = logprobs.gather(1, ids.unsqueeze(1))[:, 0]  # (B)
    top_ids = torch.sort(logits, descending=True, stable=True).indices
    top_ids = top_ids[:, : min(MAX_LOGPROBS, logits.shape[-1])]
    return DrawnRows(ids, own.float(), top_ids, logprobs.gather(1, top_ids).float())
