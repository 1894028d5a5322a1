"""L1, the next-token log-likelihood (GPT paper, section 3.1), a few rows of logits at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

CHUNK_ROWS = 512
"""Rows whose logits exist at once: 512 x 8,192 in float32 are 16 MB, about a CPU's cache. Moving
the logits of a whole batch through memory takes a quarter of a small decoder's step."""


def next_token_loss(hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean of -log softmax(hidden @ weight.T)[targets], in nats; products in ``dtype``.

    hidden (N, C), weight (V, C), targets (N) int64 -> () float32.
    """
    if torch.is_grad_enabled():
        loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden, weight, targets, dtype
        )
        return loss
    narrow_weight = weight.to(dtype)
    total = torch.zeros((), device=hidden.device)
    for rows in _chunks(len(targets)):
        log_probs = _log_probs(hidden[rows].to(dtype), narrow_weight)
        total -= log_probs.gather(1, targets[rows, None]).sum()
    return total / len(targets)


def _chunks(num_rows: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK_ROWS) for start in range(0, num_rows, CHUNK_ROWS))


def _log_probs(hidden: Tensor, weight: Tensor) -> Tensor:
    """(N, C) and (V, C) -> (N, V), float32."""
    logits = (hidden @ weight.T).float()
    return logits.sub_(logits.logsumexp(1, keepdim=True))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The gradients are made in the forward pass, while a chunk's probabilities are at hand.

    None is made for a weight that is not trained: a third of the work.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype
    ) -> Tensor:
        narrow_weight = weight.to(dtype)
        grad_hidden = torch.empty_like(hidden)
        is_trained = ctx.needs_input_grad[1]  # type: ignore[attr-defined]
        grad_weight = torch.zeros_like(weight) if is_trained else None
        total = torch.zeros((), device=hidden.device)
        for rows in _chunks(len(targets)):
            chunk, chosen = hidden[rows].to(dtype), targets[rows, None]  # (N, C), (N, 1)
            log_probs = _log_probs(chunk, narrow_weight)  # (N, V)
            total -= log_probs.gather(1, chosen).sum()
            grad = log_probs.exp_()
            grad.scatter_add_(1, chosen, grad.new_full(chosen.shape, -1.0))
            grad = grad.to(dtype)
            grad_hidden[rows] = grad @ narrow_weight  # (N, V) x (V, C)
            if grad_weight is not None:
                grad_weight += grad.T @ chunk  # (V, N) x (N, C)
        grads = (grad_hidden,) if grad_weight is None else (grad_hidden, grad_weight)
        ctx.save_for_backward(*(grad / len(targets) for grad in grads))
        return total / len(targets)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        grad_hidden, *grad_weight = (grad * x for x in ctx.saved_tensors)  # type: ignore[attr-defined]
        return grad_hidden, grad_weight[0] if grad_weight else None, None, None
