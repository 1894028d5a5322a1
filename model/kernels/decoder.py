"""NativeDecoder: the whole decoder as one call of the native kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from model.attention import Span, score_scale
from model.config import GPTConfig
from model.kernels import structs
from model.kernels.native import LANES, NativeKernels, NativeMatrix, cache_struct, span_lines
from model.kernels.thin import NativeThins, ThinWords, adapter_lines, max_rank
from model.lora import Adapter
from model.network import positions
from model.slot_cache import SlotCache

Lookup = Callable[[Tensor], Tensor]
"""The embeddings of ids, however they are stored: (N) -> (N, C) float32."""


def unsupported(config: GPTConfig) -> str | None:
    """Why the native decoder cannot run this shape, or None."""
    if config.head_len % LANES:
        return f"head_len must be a multiple of {LANES} for them, got {config.head_len}"
    return None


class NativeDecoder:
    """A Network; model.network.TorchNetwork is the plain reference.

    ``matrices`` are the linear layers by the name of their weight, the head among them as
    ``lm_head.weight``; ``norms`` the gains and biases of the norms by their names, and
    ``position_table`` is wpe. ``adapters`` are those that spans name by their index.
    """

    def __init__(
        self,
        config: GPTConfig,
        embed: Lookup,
        position_table: Tensor,
        norms: Mapping[str, Tensor],
        matrices: Mapping[str, NativeMatrix],
        kernels: NativeKernels,
        cache: SlotCache,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        self._config = config
        self._embed = embed
        self._positions = position_table
        self._norms = {name: norm.detach().float().contiguous() for name, norm in norms.items()}
        self._matrices = matrices
        self._thins = {
            name: thins
            for name in (weight.removesuffix(".weight") for weight in matrices)
            if (thins := NativeThins.beside(name, adapters))
        }
        self._thin_words = ThinWords(adapters, kernels)
        self._kernels = kernels
        self._cache = cache  # kept alive: the structure points into it
        self._cache_struct = cache_struct(cache)
        self._layers = (structs.Layer * config.num_layers)(
            *(self._layer(index) for index in range(config.num_layers))
        )
        last_norm = f"h.{config.num_layers - 1}.ln_2" if config.is_post_norm else "ln_f"
        self._decoder = structs.Decoder(
            layers=self._layers,
            ln_f_gain=self._gain(last_norm),
            ln_f_bias=self._bias(last_norm),
            num_layers=config.num_layers,
            num_channels=config.num_channels,
            num_heads=config.num_heads,
            num_inner=config.num_inner,
            activation=structs.ACTIVATIONS[config.activation],
            epsilon=config.norm_epsilon,
            is_post_norm=config.is_post_norm,
            max_rank=max_rank(adapters),
        )
        self._scratch = torch.empty(0, dtype=torch.uint8)

    def _layer(self, index: int) -> structs.Layer:
        name = f"h.{index}."
        is_post_norm = self._config.is_post_norm
        before_attn = f"h.{index - 1}.ln_2" if is_post_norm else name + "ln_1"
        before_mlp = name + ("ln_1" if is_post_norm else "ln_2")
        return structs.Layer(
            ln_1_gain=self._gain(before_attn),
            ln_1_bias=self._bias(before_attn),
            ln_2_gain=self._gain(before_mlp),
            ln_2_bias=self._bias(before_mlp),
            c_attn=self._matrix(name + "attn.c_attn"),
            attn_proj=self._matrix(name + "attn.c_proj"),
            c_fc=self._matrix(name + "mlp.c_fc"),
            mlp_proj=self._matrix(name + "mlp.c_proj"),
            score_scale=score_scale(self._config, index),
        )

    def _matrix(self, name: str) -> structs.Matrix:
        """With what adapters have beside it."""
        struct = structs.Matrix.from_buffer_copy(self._matrices[f"{name}.weight"].struct)
        if thins := self._thins.get(name):
            struct.thins = thins.structs
        return struct

    def _gain(self, norm: str) -> int | None:
        """The address of a norm's gain; None before the first layer of a post-norm decoder."""
        gain = self._norms.get(f"{norm}.weight")
        return None if gain is None else gain.data_ptr()

    def _bias(self, norm: str) -> int | None:
        bias = self._norms.get(f"{norm}.bias")
        return None if bias is None else bias.data_ptr()

    def hidden(self, ids: Sequence[int], spans: Sequence[Span], wanted: Sequence[int]) -> Tensor:
        """See Network."""
        all_ids = torch.tensor(ids)
        x = self._embed(all_ids) + self._positions[positions(spans)].float()  # (N, C)
        adapters = adapter_lines(spans)
        if adapters is not None:
            self._thin_words.add(x, all_ids, adapters)
        hidden = torch.empty(len(wanted), self._config.num_channels)
        lines = span_lines(spans)
        indices = torch.tensor(wanted, dtype=torch.int64)
        step = structs.Step(
            x=x.data_ptr(),
            hidden=hidden.data_ptr(),
            spans=lines.data_ptr(),
            wanted=indices.data_ptr(),
            adapters=None if adapters is None else adapters.data_ptr(),
            num_tokens=len(ids),
            num_spans=len(spans),
            num_wanted=len(wanted),
            scratch=self._scratch_for(len(ids)),
        )
        self._kernels.run(self._decoder, self._cache_struct, step)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """See Network."""
        return self._kernels.linear(self._matrices["lm_head.weight"], hidden)

    def _scratch_for(self, num_tokens: int) -> int:
        """An address; what a larger step needed is kept, since the next one may need it too."""
        num_bytes = self._kernels.scratch_bytes(self._decoder, num_tokens)
        if num_bytes > self._scratch.numel():
            self._scratch = torch.empty(num_bytes, dtype=torch.uint8)
        return self._scratch.data_ptr()
