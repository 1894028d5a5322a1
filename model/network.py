"""What the engine runs: token ids of a step to hidden states to logits, over a SlotCache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from model.attention import SlotAttention, Span
from model.config import GPTConfig
from model.decoder import GPT
from model.slot_cache import SlotCache


class Network(Protocol):
    """A decoder with its weights and its cache; kernels/decoder.py has the native one."""

    def hidden(self, ids: Sequence[int], spans: Sequence[Span], wanted: Sequence[int]) -> Tensor:
        """Final hidden states (W, C) of the ``wanted`` tokens, ascending indices along N.

        ``ids`` are the step's N tokens, those of ``spans`` one after the other; their keys and
        values are in the cache afterwards.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """(W, C) -> (W, V), float32."""
        ...


class TorchNetwork:
    """The plain one: ``GPT`` with packed layers, and the reference attention."""

    def __init__(self, gpt: GPT, cache: SlotCache) -> None:
        self._gpt = gpt
        self._cache = cache

    def hidden(self, ids: Sequence[int], spans: Sequence[Span], wanted: Sequence[int]) -> Tensor:
        """See Network."""
        attend = SlotAttention(self._gpt.config, self._cache, spans)
        hidden: Tensor = self._gpt(torch.tensor(ids), positions(spans), attend)  # (N, C)
        return hidden[list(wanted)]

    def logits(self, hidden: Tensor) -> Tensor:
        """See Network."""
        return self._gpt.logits(hidden)


def gpt_with(config: GPTConfig, tensors: Mapping[str, Tensor], *, is_whole: bool = True) -> GPT:
    """The network with ``tensors`` in place as they are, but for norms, which become float32.

    A tied head need not be among them. Where not ``is_whole``, what is missing stays on the meta
    device until it is replaced. Memory-mapped tensors stay mapped.
    """
    gpt = GPT.on_meta(config)
    state = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if config.is_head_tied:
        state.setdefault("lm_head.weight", state["wte.weight"])
    gpt.load_state_dict(state, strict=is_whole, assign=True)
    gpt.requires_grad_(False).eval()
    for module in gpt.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.float()
    return gpt


def positions(spans: Sequence[Span]) -> Tensor:
    """The position of each token of a step, (N)."""
    return torch.tensor([p for span in spans for p in range(span.start, span.end)])
