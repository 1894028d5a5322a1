"""Ours against transformers' GPT2LMHeadModel with every parameter random, and a trained model."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from engine.networks import CacheShape, Weights, build_network
from model.attention import CausalAttention, Span
from model.config import NORM_PLACEMENTS, PRESETS, GPTConfig
from model.decoder import GPT
from model.kernels import native
from model.network import Network
from weights.checkpoint import open_checkpoint

TOLERANCE = 1e-5
"""Of the largest logit, in float32."""


def random_peer(**options: Any) -> GPT2LMHeadModel:
    """transformers' model, eager attention, gains and biases random too.

    Matrices are scaled to keep activations near one, as trained ones do.
    """
    torch.manual_seed(0)
    with torch.device("meta"):
        peer = GPT2LMHeadModel(GPT2Config(attn_implementation="eager", **options))
    peer.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            parameter.normal_(std=0.02 if parameter.dim() > 1 else 0.2)
            if "ln_" in name and name.endswith("weight"):
                parameter.add_(1)
    return peer.eval()


def ours(peer: GPT2LMHeadModel, path: Path, kernels: str = "auto") -> Network:
    """The same weights through a Hugging Face directory, packed for serving in float32."""
    peer.save_pretrained(path)
    checkpoint = open_checkpoint(path)
    weights = Weights(checkpoint.config, checkpoint.tensors, {})
    loaded = None if kernels == "torch" else native.load()
    shape = CacheShape(2, checkpoint.config.num_positions)
    return build_network(weights, "float32", loaded, shape)[0]


@torch.inference_mode()
def slot_logits(network: Network, ids: Tensor, cuts: list[int]) -> Tensor:
    """Logits of every position, computed chunk by chunk in slot 1."""
    out, start = [], 0
    for end in cuts:
        length = end - start
        hidden = network.hidden(
            ids[start:end].tolist(), [Span(1, start, length)], list(range(length))
        )
        out.append(network.logits(hidden))
        start = end
    return torch.cat(out)


def assert_logits_agree(
    peer: GPT2LMHeadModel, path: Path, num_tokens: int = 24, kernels: str = "auto"
) -> None:
    """Prefill, a short chunk, then single tokens: every position's logits."""
    network = ours(peer, path, kernels)
    ids = torch.randint(peer.config.vocab_size, (num_tokens,))
    with torch.inference_mode():
        expected = peer(ids.unsqueeze(0)).logits[0]
    cuts = [num_tokens // 2, num_tokens - 3, *range(num_tokens - 2, num_tokens + 1)]
    got = slot_logits(network, ids, cuts)
    assert got.dtype == torch.float32
    assert (got - expected).abs().max() <= TOLERANCE * expected.abs().max()


def sizes(name: str, num_channels: int | None = None, vocab_size: int = 50_257) -> dict[str, int]:
    """A released size, at reduced width where asked; depth and number of heads stay."""
    preset = PRESETS[name]
    return {
        "n_layer": preset.num_layers,
        "n_head": preset.num_heads,
        "n_embd": num_channels or preset.num_channels,
        "vocab_size": vocab_size,
    }


@pytest.mark.parametrize("name", ["distilgpt2", "gpt2", "gpt2-medium"])
def test_logits_at_full_width(name: str, tmp_path: Path) -> None:
    assert_logits_agree(random_peer(**sizes(name)), tmp_path)


@pytest.mark.parametrize(("name", "num_channels"), [("gpt2-large", 320), ("gpt2-xl", 400)])
def test_logits_at_true_depth_and_heads(name: str, num_channels: int, tmp_path: Path) -> None:
    assert_logits_agree(random_peer(**sizes(name, num_channels, 5_000)), tmp_path)


VARIANTS: list[dict[str, Any]] = [
    {},
    {"n_positions": 100},
    {"n_inner": 200},
    {"activation_function": "gelu"},
    {"activation_function": "gelu_pytorch_tanh"},
    {"activation_function": "relu"},
    {"activation_function": "silu"},
    {"activation_function": "tanh"},
    {"scale_attn_weights": False},
    {"scale_attn_by_inverse_layer_idx": True},
    {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True},
    {"layer_norm_epsilon": 1e-3},
    {"tie_word_embeddings": False},
    {"vocab_size": 515},
]


@pytest.mark.parametrize("kernels", ["auto", "torch"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_variant(variant: dict[str, Any], kernels: str, tmp_path: Path) -> None:
    small = {"n_layer": 3, "n_head": 3, "n_embd": 96, "n_positions": 64, "vocab_size": 211}
    assert_logits_agree(random_peer(**{**small, **variant}), tmp_path, kernels=kernels)


def test_64_greedy_tokens_at_the_124m_shape(tmp_path: Path) -> None:
    peer = random_peer(**sizes("gpt2"))
    network = ours(peer, tmp_path)
    prompt = torch.randint(50_257, (1, 16))
    with torch.inference_mode():
        expected = peer.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=64,
            min_new_tokens=64,
            do_sample=False,
            pad_token_id=0,
        )[0]
    ids, cut = prompt[0], 0
    while len(ids) < len(expected):
        with torch.inference_mode():
            length = len(ids) - cut
            hidden = network.hidden(ids[cut:].tolist(), [Span(0, cut, length)], [length - 1])
            next_id = network.logits(hidden).argmax(-1)
        cut, ids = len(ids), torch.cat([ids, next_id])
    assert ids.tolist() == expected.tolist()


def shipped(partials: dict[str, Any], name: str) -> Tensor:
    """A reference activation of the trained model."""
    entry = partials[name]
    data = torch.frombuffer(bytearray(base64.b64decode(entry["data"])), dtype=torch.float32)
    return data.reshape(entry["shape"])


def test_activations_of_a_trained_model(shared_data: Path) -> None:
    """gpt-nano-sort was trained by minGPT; its activations at three inputs are shipped with it."""
    folder = shared_data / "trained" / "gpt-nano-sort"
    partials = json.loads((folder / "gpt-nano-sort-t0-partials.json").read_text())
    checkpoint = open_checkpoint(folder)
    gpt = GPT.on_meta(checkpoint.config)
    gpt.load_state_dict(dict(checkpoint.tensors), assign=True)
    gpt.eval()
    seen: dict[str, Tensor] = {}

    def watch(module: torch.nn.Module, name: str) -> None:
        module.register_forward_hook(lambda _module, _inputs, out: seen.__setitem__(name, out))

    first = gpt.layers[0]
    for module, name in (
        (gpt.wte, "tok_emb"),
        (first.ln_1, "ln1"),
        (first.attn.c_attn, "qkv"),
        (first.attn.c_proj, "yProj"),
        (first.ln_2, "ln2"),
        (first.mlp.c_fc, "fc"),
        (first.mlp, "mlp"),
        (gpt.h[0], "block0"),
        (gpt.h[1], "block1"),
        (gpt.h[2], "block2"),
        (gpt.ln_f, "ln_f"),
    ):
        watch(module, name)
    ids = shipped(partials, "idx").long()
    num_windows, window_len = ids.shape
    positions = torch.arange(window_len).repeat(num_windows)
    with torch.inference_mode():
        hidden = gpt(ids.flatten(), positions, CausalAttention(gpt.config, window_len))
        seen["lm_head"] = gpt.logits(hidden)
        seen["probs"] = seen["lm_head"].softmax(-1)
    assert len(seen) == 13
    for name, got in seen.items():
        expected = shipped(partials, name)
        error = (got.reshape(expected.shape) - expected).abs().max()
        assert error < 1e-5 * max(1.0, expected.abs().max().item()), name


def test_whole_windows_and_slots_agree(tmp_path: Path) -> None:
    """Training's attention and serving's are the same network."""
    peer = random_peer(n_layer=2, n_head=2, n_embd=64, n_positions=64, vocab_size=97)
    network = ours(peer, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    gpt = GPT.on_meta(checkpoint.config)
    tied = {"lm_head.weight": checkpoint.tensors["wte.weight"]}
    gpt.load_state_dict({**tied, **checkpoint.tensors}, assign=True)
    ids = torch.randint(97, (40,))
    with torch.inference_mode():
        hidden = gpt(ids, torch.arange(40), CausalAttention(gpt.config, 40))
        expected = gpt.logits(hidden)
    got = slot_logits(network, ids, [7, 40])
    assert (got - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_counted_parameters() -> None:
    """GPT's, and the four sizes of GPT-2's paper (it calls them 117M, 345M, 762M and 1542M)."""
    counts = {name: config.num_parameters for name, config in PRESETS.items()}
    assert counts == {
        "gpt": 116_534_784,
        "distilgpt2": 81_912_576,
        "gpt2": 124_439_808,
        "gpt2-medium": 354_823_168,
        "gpt2-large": 774_030_080,
        "gpt2-xl": 1_557_611_200,
    }
    for placement in NORM_PLACEMENTS:
        small = GPTConfig(11, 12, 16, 2, 2, 40, is_head_tied=False, norm_placement=placement)
        assert small.num_parameters == sum(p.numel() for p in GPT.on_meta(small).parameters())


def test_a_slot_of_gpt2_in_bfloat16_takes_37_7_megabytes() -> None:
    assert PRESETS["gpt2"].slot_bytes(2) == 37_748_736
