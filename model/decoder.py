"""GPT: token ids -> hidden states -> logits (GPT-2 paper, section 2.3; ``GPT2LMHeadModel``).

The first GPT (``OpenAIGPTLMHeadModel``) is the same but for the place of its norms.

One network for serving and for training. What differs between the two, where keys and values
live and which of them a token may see, is the ``Attend`` argument; see model/attention.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model.config import Activation, GPTConfig


class Attend(Protocol):
    """Causal attention over wherever the keys and values of earlier tokens are."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Remember ``key`` and ``value``, and attend.

        All four are (N, C), of one dtype; ``layer`` counts from 0.
        """
        ...


_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    # GPT-2's own form; the exact one differs by up to 4.7e-4 per activation.
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_erf": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class Attention(nn.Module):
    """The two projections around multi-head attention."""

    def __init__(self, config: GPTConfig, dropout: float) -> None:
        super().__init__()
        self.c_attn = nn.Linear(config.num_channels, 3 * config.num_channels)
        self.c_proj = nn.Linear(config.num_channels, config.num_channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, layer: int, x: Tensor, attend: Attend) -> Tensor:
        """(N, C) -> (N, C)."""
        query, key, value = self.c_attn(x).chunk(3, dim=-1)  # (N, 3C) -> 3 x (N, C)
        out: Tensor = self.dropout(self.c_proj(attend(layer, query, key, value)))
        return out


class MLP(nn.Module):
    """Two linear layers with the activation between them."""

    def __init__(self, config: GPTConfig, dropout: float) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.num_channels, config.num_inner)
        self.c_proj = nn.Linear(config.num_inner, config.num_channels)
        self.activation = _ACTIVATIONS[config.activation]
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) -> (N, C)."""
        out: Tensor = self.dropout(self.c_proj(self.activation(self.c_fc(x))))
        return out


class Layer(nn.Module):
    """One transformer layer, with the norms before its sub-layers or after them."""

    def __init__(self, config: GPTConfig, index: int, dropout: float) -> None:
        super().__init__()
        self.index = index
        self.ln_1 = nn.LayerNorm(config.num_channels, config.norm_epsilon)
        self.attn = Attention(config, dropout)
        self.ln_2 = nn.LayerNorm(config.num_channels, config.norm_epsilon)
        self.mlp = MLP(config, dropout)
        self.is_post_norm = config.is_post_norm

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """(N, C) -> (N, C)."""
        if self.is_post_norm:
            x = self.ln_1(x + self.attn(self.index, x, attend))
            normed: Tensor = self.ln_2(x + self.mlp(x))
            return normed
        x = x + self.attn(self.index, self.ln_1(x), attend)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class GPT(nn.Module):
    """The decoder. On the meta device it is the list of names and shapes of a checkpoint."""

    def __init__(self, config: GPTConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.num_channels)
        self.wpe = nn.Embedding(config.num_positions, config.num_channels)
        self.dropout = nn.Dropout(dropout)
        self.h = nn.ModuleList(Layer(config, i, dropout) for i in range(config.num_layers))
        self.ln_f = (
            nn.Identity()  # the last layer's own norm is the last
            if config.is_post_norm
            else nn.LayerNorm(config.num_channels, config.norm_epsilon)
        )
        self.lm_head = nn.Linear(config.num_channels, config.vocab_size, bias=False)
        if config.is_head_tied:
            self.lm_head.weight = self.wte.weight

    @property
    def layers(self) -> list[Layer]:
        """``h`` by another name and with its type; checkpoints call the layers ``h``."""
        return cast(list[Layer], list(self.h))

    def forward(self, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Final hidden states (N, C) of the tokens ``ids`` (N) at ``positions`` (N)."""
        # The residual stream is float32, whatever the weights are stored in.
        x = self.wte(ids).float() + self.wpe(positions).float()  # (N) -> (N, C)
        x = self.dropout(x)
        for layer in self.h:
            x = layer(x, attend)
        out: Tensor = self.ln_f(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, C) -> (N, V), always float32.

        Real GPT-2 logits lie near -100, where a step of bfloat16 is 0.5: rounded there,
        the argmax would be lost.
        """
        out: Tensor = self.lm_head(hidden)
        return out.float()

    @classmethod
    def on_meta(cls, config: GPTConfig) -> GPT:
        """The network without storage: names and shapes only."""
        with torch.device("meta"), _WithoutInitialisation():
            return cls(config)


class _WithoutInitialisation(TorchFunctionMode):
    """Leaves new parameters as they are.

    Drawing numbers on the meta device draws nothing and imports torch's compiler for it, which
    takes a second.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """``func`` itself, unless it is an initialiser."""
        given = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)


def parameter_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a checkpoint; a tied head is not listed twice."""
    return {name: tuple(p.shape) for name, p in GPT.on_meta(config).named_parameters()}
