"""A checkpoint's tensors as a network on a device: precision and products are decided here."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.activation import TiledActivation
from model.config import GPTConfig
from model.decoder import GPT
from model.linear import TILE_ROWS
from model.network import gpt_with

DTYPES: Mapping[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
"""What weights, keys and values may be on a GPU, the default first."""


class RowLinear(nn.Module):
    """(N, K) -> (N, M) by the matrix library, all rows at once or ``tile_rows`` at a time.

    The library takes other kernels, which sum in another order, for other numbers of rows: only
    tiles of one height make a row's bits independent of its company.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, tile_rows: int | None) -> None:
        super().__init__()
        self._weight = linear.weight.detach().to(dtype).contiguous()
        self._bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        self._tile_rows = tile_rows

    def forward(self, x: Tensor) -> Tensor:
        """In the weights' dtype."""
        x = x.to(self._weight.dtype)
        if self._tile_rows is None:
            return self._product(x)
        num_rows = x.shape[0]
        x = F.pad(x, (0, 0, 0, -num_rows % self._tile_rows))
        return torch.cat([self._product(tile) for tile in torch.split(x, self._tile_rows)])[
            :num_rows
        ]

    def _product(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight, self._bias)


class Head(RowLinear):
    """Logits are float32 sums of the products: nothing is rounded after them."""

    def _product(self, x: Tensor) -> Tensor:
        if self._weight.dtype == torch.float32:
            return F.linear(x, self._weight)
        return torch.mm(x, self._weight.t(), out_dtype=torch.float32)


def device_gpt(
    config: GPTConfig,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device,
    *,
    is_strict: bool,
) -> GPT:
    """The network, ready to serve. Where ``is_strict``, a row's bits depend on itself alone."""
    gpt = _moved(gpt_with(config, tensors), dtype, device)
    tile_rows = TILE_ROWS if is_strict else None
    for layer in gpt.layers:
        for owner in (layer.attn, layer.mlp):
            for name, linear in list(owner.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(owner, name, RowLinear(linear, dtype, tile_rows))
        if device.type == "cpu":  # there alone do elements at the end of a share differ
            layer.mlp.activation = TiledActivation(layer.mlp.activation)
    head_dtype = torch.float32 if device.type == "cpu" else dtype
    gpt.lm_head = Head(gpt.lm_head, head_dtype, tile_rows)  # type: ignore[assignment]
    return gpt


def _moved(gpt: GPT, dtype: torch.dtype, device: torch.device) -> GPT:
    """On the device, each tensor once: a tied head stays tied. Norms stay float32."""
    moved: dict[int, nn.Parameter] = {}
    for module in gpt.modules():
        kept = torch.float32 if isinstance(module, nn.LayerNorm) else dtype
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in moved:
                there = parameter.detach().to(device, kept)
                moved[id(parameter)] = nn.Parameter(there, requires_grad=False)
            setattr(module, name, moved[id(parameter)])
    return gpt
