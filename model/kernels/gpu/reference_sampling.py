"""Sampling with filters in plain torch, all rows at once, in the order of model.sampler."""

from __future__ import annotations

import torch
from torch import Tensor

from model.kernels.gpu.buffers import Chosen, Draws, Filters
from model.kernels.gpu.noise import gumbel_noise
from model.sampler import MIN_TEMPERATURE


def sample(logits: Tensor, draws: Draws, filters: Filters, chosen: Chosen) -> None:
    """See Operations."""
    adjusted = adjust(logits, filters)
    is_filtered = (draws.temperatures > 0) & (
        (filters.top_k > 0) | (filters.top_p < 1) | (filters.min_p > 0)
    )  # (B)
    temperatures = draws.temperatures.clamp(min=MIN_TEMPERATURE).unsqueeze(1)
    scaled = (adjusted - adjusted.amax(-1, keepdim=True)) / temperatures
    scores = torch.where(
        is_filtered.unsqueeze(1),
        noisy(scaled, torch.ones_like(draws.temperatures), draws),
        noisy(adjusted, draws.temperatures, draws),
    )
    is_lost = is_filtered.unsqueeze(1) & ~kept(scaled, filters)
    chosen.ids.copy_(first_largest(scores.masked_fill(is_lost, float("-inf"))))
    logprobs = logits.double().log_softmax(-1)
    chosen.logprobs.copy_(logprobs.gather(1, chosen.ids.long().unsqueeze(1))[:, 0])
    ids = torch.sort(logits, descending=True, stable=True).indices
    count = chosen.top_ids.shape[1]
    chosen.top_ids.copy_(ids[:, :count])
    chosen.top_logprobs.copy_(logprobs.gather(1, ids[:, :count]))


def adjust(logits: Tensor, filters: Filters) -> Tensor:
    """Bias, banned ids and penalties; (B, V) -> (B, V)."""
    vocab_size = logits.shape[1]
    changes = torch.where(filters.bias_ids >= 0, filters.biases, 0.0)
    logits = logits.scatter_add(1, filters.bias_ids.clamp(min=0).long(), changes)
    is_banned = _counts(filters.banned_ids, filters.banned_ids >= 0, vocab_size) > 0
    logits = logits.masked_fill(is_banned, float("-inf"))
    history = filters.history[filters.slots.long()]  # (S, T) -> (B, T)
    places = torch.arange(history.shape[1], device=logits.device)
    is_known = places < filters.lens.unsqueeze(1)
    is_output = is_known & (places >= filters.prompt_lens.unsqueeze(1))
    repetition = filters.repetition.unsqueeze(1)
    repeated = torch.where(logits < 0, logits * repetition, logits / repetition)
    logits = torch.where(_counts(history, is_known, vocab_size) > 0, repeated, logits)
    counts = _counts(history, is_output, vocab_size)
    penalties = filters.presence.unsqueeze(1) + filters.frequency.unsqueeze(1) * counts
    return torch.where(counts > 0, logits - penalties, logits)


def kept(scaled: Tensor, filters: Filters) -> Tensor:
    """Whether each token passes top-k, top-p and min-p, (B, V).

    ``scaled`` are logits by temperature, the largest of each row at 0.
    """
    values, ids = torch.sort(scaled, descending=True, stable=True)
    ranks = torch.arange(scaled.shape[1], device=scaled.device)
    top_k = filters.top_k.unsqueeze(1)
    is_kept = (top_k == 0) | (ranks < top_k)  # (B, V), in the order of ``values``
    weights = values.exp().double() * is_kept
    ends = weights.cumsum(-1)
    before = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], 1)
    top_p = filters.top_p.unsqueeze(1)
    is_kept &= (top_p >= 1) | (before < top_p * ends[:, -1:]) | (ranks == 0)
    is_kept &= (weights >= filters.min_p.unsqueeze(1)) & (weights > 0)
    return torch.zeros_like(is_kept).scatter(1, ids, is_kept)


def noisy(logits: Tensor, temperatures: Tensor, draws: Draws) -> Tensor:
    """Logits by temperature plus noise, (B, V); as they are in rows with temperature 0."""
    noise = gumbel_noise(draws.seeds, draws.choice_indices, draws.token_indices, logits.shape[1])
    scaled = logits / temperatures.clamp(min=MIN_TEMPERATURE).unsqueeze(1) + noise
    return torch.where((draws.temperatures > 0).unsqueeze(1), scaled, logits)


def first_largest(scores: Tensor) -> Tensor:
    """The lowest id among the largest of each row, (B, V) -> (B)."""
    ids = torch.arange(scores.shape[1], device=scores.device)
    is_largest = scores == scores.amax(-1, keepdim=True)
    return torch.where(is_largest, ids, scores.shape[1] - 1).amin(-1)


def _counts(ids: Tensor, is_counted: Tensor, vocab_size: int) -> Tensor:
    """How often each token stands in a row's ``ids`` (B, X) where ``is_counted``; (B, V) int64."""
    counts = torch.zeros((len(ids), vocab_size), dtype=torch.int64, device=ids.device)
    places = torch.where(is_counted, ids, 0).long()
    return counts.scatter_add_(1, places, is_counted.long())
