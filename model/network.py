"""What the engine runs: token ids of a step to hidden states to logits, over a SlotCache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from model.adapted import adapted_gpt
from model.attention import SlotAttention, Span
from model.config import GPTConfig
from model.decoder import GPT
from model.lora import Adapter
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
    """The plain one: ``GPT`` with packed layers, and the reference attention.

    ``adapters`` are those that spans name by their index. The rows of each take a pass of their
    own, in which all but the thin matrices is shared.
    """

    def __init__(self, gpt: GPT, cache: SlotCache, adapters: Sequence[Adapter] = ()) -> None:
        self._gpt = gpt
        self._adapted = [adapted_gpt(gpt, adapter) for adapter in adapters]
        self._cache = cache

    def hidden(self, ids: Sequence[int], spans: Sequence[Span], wanted: Sequence[int]) -> Tensor:
        """See Network."""
        all_ids = torch.tensor(ids)
        hidden = torch.empty(len(ids), self._gpt.config.num_channels)  # (N, C)
        for adapter in dict.fromkeys(span.adapter for span in spans):
            gpt = self._gpt if adapter is None else self._adapted[adapter]
            mine = [span for span in spans if span.adapter == adapter]
            rows = torch.tensor([s.adapter == adapter for s in spans for _ in range(s.length)])
            attend = SlotAttention(gpt.config, self._cache, mine)
            hidden[rows] = gpt(all_ids[rows], positions(mine), attend)
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
