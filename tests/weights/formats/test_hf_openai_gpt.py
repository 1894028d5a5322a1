"""The first GPT as transformers writes it: the same logits, names, and the way back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, OpenAIGPTLMHeadModel

from engine.networks import CacheShape, Weights, build_network
from model.attention import Span
from model.config import PRESETS, GPTConfig
from model.decoder import parameter_shapes
from model.kernels import native
from tests.support.attention import kernels_for
from tests.support.gpt import random_gpt, write_openai
from tests.support.logits import assert_close, logits_of
from tests.support.vocabularies import words
from weights.checkpoint import CheckpointError, open_checkpoint, save_checkpoint
from weights.convert import convert
from weights.export import export
from weights.formats.hf_config import read_config

EditConfig = Callable[..., None]
EditTensors = Callable[[Path, Callable[[dict[str, torch.Tensor]], None]], None]

DEEP: dict[str, int] = {"n_layer": 12, "n_head": 12, "n_embd": 192, "vocab_size": 2_000}


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor, torch.Tensor]:
    """A model of GPT's depth and heads, ids, and the logits that transformers gives them."""
    peer = random_gpt(**DEEP, n_positions=512)
    path = tmp_path_factory.mktemp("deep")
    peer.save_pretrained(path)
    ids = torch.randint(DEEP["vocab_size"], (24,))
    with torch.no_grad():
        return path, ids, peer(ids[None]).logits[0]


@pytest.mark.parametrize("kernels", ["torch", *native.PATHS])
@torch.inference_mode()
def test_logits_equal_those_of_transformers(
    kernels: str, deep: tuple[Path, torch.Tensor, torch.Tensor]
) -> None:
    """Prefill, a short chunk, then single tokens."""
    path, ids, expected = deep
    checkpoint = open_checkpoint(path)
    weights = Weights(checkpoint.config, checkpoint.tensors, {})
    network, _, _ = build_network(weights, "float32", kernels_for(kernels), CacheShape(1, 24))
    out = []
    for start, end in ((0, 12), (12, 21), (21, 22), (22, 23), (23, 24)):
        length = end - start
        hidden = network.hidden(ids[start:end].tolist(), [Span(0, start, length)], range(length))
        out.append(network.logits(hidden))
    assert_close(torch.cat(out), expected)


@pytest.mark.parametrize(
    "options", [{}, {"afn": "relu"}, {"afn": "silu"}, {"tie_word_embeddings": False}]
)
def test_every_variant_there_and_back(options: dict[str, Any], tmp_path: Path) -> None:
    peer = random_gpt(**options)
    peer.save_pretrained(tmp_path / "hf")
    ours = convert(tmp_path / "hf", tmp_path / "ours")
    assert ours.source["format"] == "hf_openai_gpt"
    ids = torch.arange(20) * 7 % 120
    with torch.no_grad():
        expected = peer(ids[None]).logits[0]
        assert_close(logits_of(ours, ids), expected)
        back, told = OpenAIGPTLMHeadModel.from_pretrained(
            export(ours.path, tmp_path / "back").path, output_loading_info=True
        )
        assert not any(told.values()), told
        assert torch.equal(back.eval()(ids[None]).logits[0], expected)
    again = convert(tmp_path / "back", tmp_path / "again")
    assert again.config == ours.config
    assert again.weights_hash == ours.weights_hash


def test_the_defaults_are_those_of_the_preset(tmp_path: Path, edit_config: EditConfig) -> None:
    """Of a config.json that says no more than its kind."""
    (tmp_path / "config.json").write_text('{"model_type": "openai-gpt", "afn": "gelu"}')
    assert read_config(tmp_path) == (PRESETS["gpt"], [])
    edit_config(tmp_path, architectures=["OpenAIGPTDoubleHeadsModel"], afn="mish", n_ctx=1)
    _, problems = read_config(tmp_path)
    assert [problem.split(" is ")[0] for problem in problems] == [
        "architecture OpenAIGPTDoubleHeadsModel",
        "n_ctx",
        "afn 'mish'",
    ]


def test_a_pickle_without_prefixes_and_with_the_numbers_of_the_positions(tmp_path: Path) -> None:
    """As the oldest files on the hub are."""
    peer = random_gpt()
    state = {
        name.removeprefix("transformer."): tensor for name, tensor in peer.state_dict().items()
    }
    del state["lm_head.weight"]
    state["position_ids"] = torch.arange(24)
    state["h.0.attn.bias"] = torch.ones(1, 1, 24, 24)
    peer.config.save_pretrained(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    ours = convert(tmp_path, tmp_path / "ours")
    ids = torch.arange(9)
    with torch.no_grad():
        assert_close(logits_of(ours, ids), peer(ids[None]).logits[0])


def test_tensors_that_are_not_gpts_are_named(tmp_path: Path, edit_tensors: EditTensors) -> None:
    random_gpt().save_pretrained(tmp_path)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["transformer.ln_f.weight"] = torch.ones(32)
        tensors["transformer.wte.more"] = torch.ones(32)
        del tensors["transformer.positions_embed.weight"]

    edit_tensors(tmp_path, change)
    with pytest.raises(CheckpointError) as refused:
        open_checkpoint(tmp_path)
    assert [problem.removeprefix(f"{tmp_path}: ") for problem in refused.value.problems] == [
        "tensor wpe.weight is missing",
        "unexpected tensor ln_f.weight",
        "unexpected tensor wte.more",
    ]


def test_weights_under_gpt_2s_configuration_are_refused(
    tmp_path: Path, edit_config: EditConfig
) -> None:
    random_gpt().save_pretrained(tmp_path)
    edit_config(tmp_path, model_type="gpt2", architectures=["GPT2LMHeadModel"])
    with pytest.raises(CheckpointError, match=r"wte\.weight is missing"):
        open_checkpoint(tmp_path)


def test_the_vocabulary_goes_with_the_export(tmp_path: Path) -> None:
    their_words = words(write_openai(random_gpt(), tmp_path / "model"))
    ours = convert(tmp_path / "model", tmp_path / "ours", num_heads=2)
    exported = export(ours.path, tmp_path / "hf").path
    assert {"vocab.json", "merges.txt"} <= {file.name for file in exported.iterdir()}
    text = "The cat, that   CAFÉ <unk> world!"
    theirs = AutoTokenizer.from_pretrained(exported)
    assert theirs.encode(text) == their_words.encode(text).ids
    assert convert(exported, tmp_path / "again").config == ours.config


UNWRITABLE: dict[str, tuple[dict[str, Any], str]] = {
    "activation": ({"activation": "gelu_erf"}, "activation gelu_erf (only gelu_tanh, relu, silu)"),
    "inner": ({"num_inner": 24}, "num_inner 24 (only 4 times 16)"),
    "scale": ({"is_attention_scaled": False}, "attention that is scaled in another way"),
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_what_transformers_cannot_say_is_not_exported(name: str, tmp_path: Path) -> None:
    options, message = UNWRITABLE[name]
    config = replace(GPTConfig(20, 12, 16, 1, 2, 64, norm_placement="post"), **options)
    tensors = {name: torch.ones(shape) for name, shape in parameter_shapes(config).items()}
    ours = save_checkpoint(tmp_path / "ours", config, tensors, None, {})
    with pytest.raises(CheckpointError) as refused:
        export(ours.path, tmp_path / "hf")
    assert refused.value.problems == [f"transformers has no post-norm GPT with {message}"]
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("method", ["int8", "int4"])
def test_quantised_it_is_as_good_as_gpt_2(method: str, tmp_path: Path) -> None:
    """Random weights near what trained ones are; int4 costs them a few percent."""
    random_gpt(n_embd=64).save_pretrained(tmp_path / "hf")
    made = convert(tmp_path / "hf", tmp_path / "ours", quantization=method)
    quality = made.source["quality"]
    assert 0 < quality["log_loss_rise"] < 0.05 * quality["log_loss"]
    assert json.loads((made.path / "config.json").read_text())["config"]["norm_placement"] == "post"


def test_matrices_are_turned_and_copied(tmp_path: Path) -> None:
    random_gpt().save_pretrained(tmp_path)
    theirs = load_file(tmp_path / "model.safetensors")
    ours = open_checkpoint(tmp_path).tensors
    weight = ours["h.1.mlp.c_fc.weight"]
    assert torch.equal(weight, theirs["transformer.h.1.mlp.c_fc.weight"].t())
    assert weight.is_contiguous()
    assert torch.equal(ours["wpe.weight"], theirs["transformer.positions_embed.weight"])
