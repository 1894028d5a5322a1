"""An adapter's thin matrices beside the serving layers of a decoder, in plain torch.

The layers themselves are shared with the decoder that has no adapter. Like them, everything here
is batch-invariant (model/linear.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.decoder import GPT
from model.linear import TiledLinear
from model.lora import EMBEDDING_TARGET, LAYER_TARGETS, Adapter, Thin


class AdaptedLinear(nn.Module):
    """A linear layer with B (A x + offset) added to its outputs."""

    def __init__(self, linear: nn.Module, thin: Thin) -> None:
        super().__init__()
        self._linear = linear
        self._lower = TiledLinear(thin.a, thin.offset, torch.float32)
        self._raise = TiledLinear(thin.b, None, torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """(N, K) -> (N, M), float32."""
        out: Tensor = self._linear(x) + self._raise(self._lower(x))  # (N, K) -> (N, r) -> (N, M)
        return out


class AdaptedEmbedding(nn.Module):
    """Embeddings with a row of B times A added. Ids behind the vocabulary have no row of B."""

    def __init__(self, words: nn.Embedding, thin: Thin) -> None:
        super().__init__()
        self._words = words
        self._rows = F.pad(thin.b, (0, 0, 0, words.num_embeddings - len(thin.b)))
        self._raise = TiledLinear(thin.a.t(), None, torch.float32)

    def forward(self, ids: Tensor) -> Tensor:
        """(N) -> (N, C), float32."""
        out: Tensor = self._words(ids) + self._raise(self._rows[ids])  # (N, r) -> (N, C)
        return out


def adapted_gpt(gpt: GPT, adapter: Adapter) -> GPT:
    """The network ``gpt``, packed for serving, with ``adapter`` beside its matrices."""
    out = GPT.on_meta(gpt.config).eval()
    out.wpe, out.ln_f, out.lm_head = gpt.wpe, gpt.ln_f, gpt.lm_head
    thin = adapter.get(EMBEDDING_TARGET)
    words = gpt.wte if thin is None else AdaptedEmbedding(gpt.wte, thin)
    out.wte = words  # type: ignore[assignment]
    for index, (layer, shared) in enumerate(zip(out.layers, gpt.layers, strict=True)):
        layer.ln_1, layer.ln_2 = shared.ln_1, shared.ln_2
        layer.mlp.activation = shared.mlp.activation
        for target in LAYER_TARGETS:
            owner, _, name = target.partition(".")
            linear = getattr(getattr(shared, owner), name)
            thin = adapter.get(f"h.{index}.{target}")
            chosen = linear if thin is None else AdaptedLinear(linear, thin)
            setattr(getattr(layer, owner), name, chosen)
    return out
