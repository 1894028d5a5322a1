"""The network that nanoGPT and minGPT train, under their names, and files as they save it.

Written from what both describe: pre-norm layers of nn.Linear, a causal mask, a head without bias.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZES: dict[str, int] = {
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 16,
    "block_size": 12,
    "vocab_size": 30,
}
NUM_IDS = 9


class Norm(nn.Module):
    """LayerNorm whose bias can be left out."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, 1e-5)


class Attention(nn.Module):
    def __init__(self, sizes: dict[str, int], bias: bool) -> None:
        super().__init__()
        self.num_heads, channels = sizes["n_head"], sizes["n_embd"]
        self.c_attn = nn.Linear(channels, 3 * channels, bias=bias)
        self.c_proj = nn.Linear(channels, channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, channels = x.shape
        q, k, v = (
            part.view(batch, length, self.num_heads, -1).transpose(1, 2)
            for part in self.c_attn(x).split(channels, dim=2)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        projected: Tensor = self.c_proj(out.transpose(1, 2).reshape(x.shape))
        return projected


class MLP(nn.Module):
    def __init__(self, channels: int, bias: bool, gelu: nn.Module) -> None:
        super().__init__()
        self.c_fc = nn.Linear(channels, 4 * channels, bias=bias)
        self.c_proj = nn.Linear(4 * channels, channels, bias=bias)
        self.gelu = gelu

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.c_proj(self.gelu(self.c_fc(x)))
        return projected


class Layer(nn.Module):
    def __init__(self, sizes: dict[str, int], bias: bool, gelu: nn.Module) -> None:
        super().__init__()
        channels = sizes["n_embd"]
        self.ln_1, self.ln_2 = Norm(channels, bias), Norm(channels, bias)
        self.attn = Attention(sizes, bias)
        self.mlp = MLP(channels, bias, gelu)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        y: Tensor = x + self.mlp(self.ln_2(x))
        return y


class NanoModel(nn.Module):
    """Every parameter is random: ones and zeros would hide a swapped gain or bias."""

    def __init__(self, sizes: dict[str, int], bias: bool, approximate: str, tied: bool) -> None:
        super().__init__()
        gelu = nn.GELU(approximate)
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(sizes["vocab_size"], sizes["n_embd"]),
                "wpe": nn.Embedding(sizes["block_size"], sizes["n_embd"]),
                "h": nn.ModuleList(Layer(sizes, bias, gelu) for _ in range(sizes["n_layer"])),
                "ln_f": Norm(sizes["n_embd"], bias),
            }
        )
        self.lm_head = nn.Linear(sizes["n_embd"], sizes["vocab_size"], bias=False)
        if tied:
            self.transformer["wte"].weight = self.lm_head.weight
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_()

    @property
    def layers(self) -> nn.ModuleList:
        return cast(nn.ModuleList, self.transformer["h"])

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Tensor:
        """Logits (N, V) after each of ``ids`` (N)."""
        x = self.transformer["wte"](ids[None]) + self.transformer["wpe"](torch.arange(len(ids)))
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.lm_head(self.transformer["ln_f"](x))[0]
        return logits


def nano_gpt(*, bias: bool = True, approximate: str = "none", **sizes: int) -> NanoModel:
    torch.manual_seed(1)
    return NanoModel({**SIZES, **sizes}, bias, approximate, tied=True)


def min_gpt(**sizes: int) -> NanoModel:
    torch.manual_seed(2)
    return NanoModel({**SIZES, **sizes}, True, "tanh", tied=False)


def nano_values(model: NanoModel, *, bias: bool = True, **sizes: int) -> dict[str, Any]:
    """What nanoGPT's train.py saves, with an optimiser that has taken a step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "model_args": {**SIZES, **sizes, "bias": bias, "dropout": 0.0},
        "iter_num": 2_000,
        "best_val_loss": torch.tensor(1.4697),
        "config": {"out_dir": "out", "eval_interval": 250, "wandb_log": False, "dtype": "float16"},
    }


def save_min(directory: Path, model: NanoModel, settings: dict[str, Any] | None) -> Path:
    """What minGPT's chargpt.py leaves: model.pt, and config.json unless ``settings`` is None."""
    directory.mkdir(exist_ok=True)
    state = model.state_dict()
    for index in range(len(model.layers)):
        state[f"transformer.h.{index}.attn.bias"] = torch.ones(12, 12).tril().view(1, 1, 12, 12)
    torch.save(state, directory / "model.pt")
    if settings is not None:
        sizes = {"n_layer": None, "n_head": None, "n_embd": None, "vocab_size": None}
        values = {"system": {"seed": 3407}, "model": {**sizes, **settings}, "trainer": {}}
        (directory / "config.json").write_text(json.dumps(values))
    return directory
