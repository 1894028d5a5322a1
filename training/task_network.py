"""A decoder with a task's parts in it: three more embeddings, thin matrices, and the head."""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import CausalAttention
from model.config import GPTConfig
from model.decoder import GPT
from model.heads import TaskHead, head_shape
from model.lora import EMBEDDING_TARGET, LORA_A, LORA_B, LoraConfig
from model.tasks import NUM_SPECIAL, TaskConfig
from training.optimizer import initialise
from training.task_batches import TaskBatch
from weights.checkpoint import Checkpoint
from weights.task import Task
from weights.task_description import HEAD_BIAS, HEAD_WEIGHT, SPECIAL

_STD = 0.02
"""Of the new parameters' first values, as of the decoder's own (GPT paper, section 4.1)."""


class TaskEmbedding(nn.Module):
    """The decoder's embeddings, which keep their name, and those of the ids behind them.

    With LoRA there are two thin matrices beside the decoder's own. In training, ``word_dropout`` of
    the tokens of a text are read as nothing at their position (Iyyer et al. 2015, section 3.1).
    """

    def __init__(self, words: nn.Embedding, lora: LoraConfig | None, word_dropout: float) -> None:
        super().__init__()
        self._word_dropout = word_dropout
        self.weight = words.weight
        self.special = nn.Parameter(torch.empty(NUM_SPECIAL, words.embedding_dim))
        self._scale = 0.0
        if lora is not None and EMBEDDING_TARGET in lora.targets:
            self._scale = lora.scale
            self.lora_a = nn.Parameter(torch.empty(lora.rank, words.embedding_dim))
            self.lora_b = nn.Parameter(torch.zeros(words.num_embeddings, lora.rank))

    def forward(self, ids: Tensor) -> Tensor:
        """(N) -> (N, C)."""
        num_words = len(self.weight)
        known = ids.clamp(max=num_words - 1)
        words = F.embedding(known, self.weight)
        if self._scale:
            thin = F.embedding(known, self.lora_b) @ self.lora_a  # (N, r) -> (N, C)
            words = words + self._scale * thin
        if self.training and self._word_dropout:
            drawn = torch.rand(len(ids), 1, device=ids.device)
            words = words * (drawn >= self._word_dropout)  # (N, C) x (N, 1)
        special = F.embedding((ids - num_words).clamp(min=0), self.special)
        return torch.where((ids < num_words).unsqueeze(-1), words, special)


class LoraLinear(nn.Module):
    """A linear layer beside its two thin matrices, with parameters named as they are stored.

    B is zero at the start, so that nothing changes (Hu et al. 2021, section 4.1).
    """

    def __init__(self, linear: nn.Linear, lora: LoraConfig) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.lora_a = nn.Parameter(torch.empty(lora.rank, linear.in_features))
        self.lora_b = nn.Parameter(torch.zeros(linear.out_features, lora.rank))
        self._scale = lora.scale

    def forward(self, x: Tensor) -> Tensor:
        """(N, K) -> (N, M)."""
        thin = F.linear(F.linear(x, self.lora_a), self.lora_b)  # (N, K) -> (N, r) -> (N, M)
        return F.linear(x, self.weight, self.bias) + self._scale * thin


class TaskNetwork(nn.Module):
    """``gpt``, and the task's own parameters in and behind it. New ones are drawn from ``seed``."""

    def __init__(
        self,
        decoder: GPTConfig,
        config: TaskConfig,
        lora: LoraConfig | None,
        dropout: float,
        seed: int,
        word_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = config
        self.gpt = GPT(decoder, dropout)
        initialise(self.gpt, seed)
        self.head_weight = nn.Parameter(torch.empty(head_shape(config, decoder.num_channels)))
        self.head_bias = nn.Parameter(torch.zeros(config.num_outputs))
        self.gpt.wte = TaskEmbedding(self.gpt.wte, lora, word_dropout)  # type: ignore[assignment]
        if lora is not None:
            _adapt(self.gpt, lora)
        self._dropout = dropout
        self._draw(seed)

    def _draw(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.head_weight, std=_STD, generator=generator)
        for name, parameter in self.gpt.named_parameters():
            if name.endswith(".special"):
                nn.init.normal_(parameter, std=_STD, generator=generator)
            elif name.endswith(LORA_A):
                # A row of B is chosen, where an input of a matrix is a sum over all of them.
                is_embedding = name.startswith(EMBEDDING_TARGET)
                std = 1.0 if is_embedding else parameter.shape[1] ** -0.5
                nn.init.normal_(parameter, std=std, generator=generator)

    def task_tensors(self) -> dict[str, nn.Parameter]:
        """The task's own parameters, by the names of head.safetensors."""
        gpt = dict(self.gpt.named_parameters())
        found = {SPECIAL: gpt["wte.special"], HEAD_WEIGHT: self.head_weight}
        found[HEAD_BIAS] = self.head_bias
        return found | {name: p for name, p in gpt.items() if name.endswith((LORA_A, LORA_B))}

    def trunk_tensors(self) -> dict[str, nn.Parameter]:
        """The decoder's parameters, by the names of a checkpoint."""
        own = (LORA_A, LORA_B, ".special")
        return {name: p for name, p in self.gpt.named_parameters() if not name.endswith(own)}

    def load_task(self, task: Task, trunk: Checkpoint) -> None:
        """Put the task as it was saved in place: its own numbers, and its trunk or ``trunk``.

        A classifier that reads the last token has no new ids, so theirs stay as they are.
        """
        stored = {**(task.own_trunk or trunk).tensors, **task.tensors()}
        named = self.trunk_tensors() | self.task_tensors()
        if task.special is None:
            del named[SPECIAL]
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(stored[name])

    def head(self) -> TaskHead:
        """The task head as it is served."""
        return TaskHead(self.config, self.head_weight, self.head_bias)

    def hidden(self, batch: TaskBatch, dtype: torch.dtype) -> Tensor:
        """Final hidden states of all tokens, (B, S, T, C) float32, with products in ``dtype``."""
        shape = batch.ids.shape
        attend = CausalAttention(
            self.gpt.config, shape[-1], self._dropout if self.training else 0.0
        )
        positions = torch.arange(shape[-1], device=batch.ids.device).expand(shape)
        is_narrow = dtype != torch.float32
        autocast = torch.autocast(batch.ids.device.type, dtype) if is_narrow else None
        with autocast or contextlib.nullcontext():
            hidden: Tensor = self.gpt(batch.ids.flatten(), positions.flatten(), attend)
        return hidden.float().view(*shape, -1)  # (B S T, C) -> (B, S, T, C)


def last_hidden(hidden: Tensor, batch: TaskBatch) -> Tensor:
    """The last token of each sequence: (B, S, T, C) -> (B, S, C)."""
    index = (batch.lengths - 1)[..., None, None].expand(-1, -1, 1, hidden.shape[-1])
    return hidden.gather(2, index).squeeze(2)


def _adapt(gpt: GPT, lora: LoraConfig) -> None:
    for layer in gpt.layers:
        for owner_name, _, name in (target.partition(".") for target in lora.targets):
            if name:  # the embeddings are not a layer's
                owner = getattr(layer, owner_name)
                setattr(owner, name, LoraLinear(getattr(owner, name), lora))
