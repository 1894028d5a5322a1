"""Hugging Face GPT-2 directories: every variant supported or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel

from model.config import GPTConfig
from tests.support.logits import logits_of
from weights.checkpoint import CheckpointError, open_checkpoint
from weights.formats.hf_config import config_from_hf

Tensors = dict[str, torch.Tensor]
EditTensors = Callable[[Path, Callable[[Tensors], None]], None]
EditConfig = Callable[..., None]
Writer = Callable[..., Path]


def assert_same_logits(path: Path) -> None:
    """Our decoder with our reading of ``path`` gives what transformers gives."""
    checkpoint = open_checkpoint(path)
    theirs = GPT2LMHeadModel.from_pretrained(path).eval()
    ids = torch.arange(9) * 3 % checkpoint.config.vocab_size
    with torch.no_grad():
        expected = theirs(ids[None]).logits[0]
    torch.testing.assert_close(logits_of(checkpoint, ids), expected, atol=2e-5, rtol=2e-5)


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "inner": {"n_inner": 24},
    "positions": {"n_positions": 33},
    **{
        name: {"activation_function": name}
        for name in (
            *("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_accurate"),
            *("gelu_python", "gelu_python_tanh", "relu", "silu", "swish", "tanh"),
        )
    },
    "unscaled": {"scale_attn_weights": False},
    "layer scaled": {"scale_attn_by_inverse_layer_idx": True},
    "upcast": {"reorder_and_upcast_attn": True},
    "untied": {"tie_word_embeddings": False},
    "epsilon": {"layer_norm_epsilon": 0.1},
    "large vocabulary": {"vocab_size": 131, "eos_token_id": None},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_computes_what_transformers_computes(name: str, hf_writer: Writer) -> None:
    assert_same_logits(hf_writer(**VARIANTS[name]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_are_kept_bit_for_bit(dtype: torch.dtype, hf_writer: Writer) -> None:
    path = hf_writer(dtype=dtype)
    theirs = load_file(path / "model.safetensors")
    ours = open_checkpoint(path).tensors
    assert ours.keys() == {name.removeprefix("transformer.") for name in theirs}
    for name, tensor in ours.items():
        expected = theirs[f"transformer.{name}"]
        is_matrix = name.endswith(".weight") and (".c_" in name)
        assert tensor.dtype == dtype
        assert tensor.is_contiguous()
        assert torch.equal(tensor, expected.t() if is_matrix else expected), name


def test_sharded_equals_whole(hf_writer: Writer, tmp_path: Path) -> None:
    path = hf_writer(max_shard_size="5KB")
    assert len(list(path.glob("model-*.safetensors"))) > 2
    assert_same_logits(path)
    sharded = open_checkpoint(path)
    assert len(sharded.source["sha256"]) > 3
    whole = tmp_path / "whole"
    GPT2LMHeadModel.from_pretrained(path).save_pretrained(whole)
    for name, tensor in open_checkpoint(whole).tensors.items():
        assert torch.equal(tensor, sharded.tensors[name])


def test_names_without_prefix_and_old_buffers(hf_dir: Path, edit_tensors: EditTensors) -> None:
    """What OpenAI's own checkpoints on the hub look like."""
    before = open_checkpoint(hf_dir)

    def strip(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 12, 12)
        tensors["h.1.attn.masked_bias"] = torch.tensor(-1e4)

    edit_tensors(hf_dir, strip)
    after = open_checkpoint(hf_dir)
    assert before.tensors.keys() == after.tensors.keys()
    assert all(torch.equal(before.tensors[name], after.tensors[name]) for name in after.tensors)


def test_a_head_that_repeats_the_embedding_is_dropped(
    hf_dir: Path, edit_tensors: EditTensors
) -> None:
    def repeat(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()

    edit_tensors(hf_dir, repeat)
    checkpoint = open_checkpoint(hf_dir)
    assert checkpoint.config.is_head_tied
    assert "lm_head.weight" not in checkpoint.tensors
    assert_same_logits(hf_dir)


def test_a_head_that_differs_is_untied_as_transformers_does(
    hf_dir: Path, edit_tensors: EditTensors
) -> None:
    def differ(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = torch.randn(30, 16)

    edit_tensors(hf_dir, differ)
    assert not open_checkpoint(hf_dir).config.is_head_tied
    assert_same_logits(hf_dir)


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({"eos_token_id": 7}, {}, (7,)),
        ({"eos_token_id": [7, 8, 7]}, {}, (7, 8)),
        ({"eos_token_id": None}, {}, ()),
        ({}, {}, (50_256,)),
        ({"vocab_size": 300}, {}, ()),
        ({"vocab_size": 300, "eos_token_id": 50_256}, {}, ()),
        ({"eos_token_id": 7}, {"eos_token_id": [8, 9]}, (8, 9)),
        ({"eos_token_id": 7}, {"bos_token_id": 3}, (7,)),
    ],
)
def test_end_of_sequence(
    config: dict[str, Any], generation: dict[str, Any], expected: tuple[int, ...]
) -> None:
    assert config_from_hf(config, generation).eos_token_ids == expected


def test_defaults_are_gpt2_and_other_names_are_heard() -> None:
    config = config_from_hf({}, {})
    assert config == replace(GPTConfig(), eos_token_ids=(50_256,))
    renamed = config_from_hf({"hidden_size": 24, "num_attention_heads": 3}, {})
    assert (renamed.num_channels, renamed.num_heads, renamed.num_inner) == (24, 3, 96)


def test_generation_config_is_read(hf_dir: Path) -> None:
    (hf_dir / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    assert open_checkpoint(hf_dir).config.eos_token_ids == (3, 4)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "model type": ({"model_type": "gptj"}, "model_type 'gptj'"),
    "architecture": ({"architectures": ["GPT2ForSequenceClassification"]}, "Classification"),
    "cross attention": ({"add_cross_attention": True}, "add_cross_attention"),
    "quantized": ({"quantization_config": {"bits": 4}}, "quantization_config"),
    "pruned": ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
    "activation": ({"activation_function": "mish"}, "activation_function 'mish'"),
    "no activation": ({"activation_function": None}, "activation_function None"),
    "context": ({"n_ctx": 5}, "n_ctx is 5, but n_positions is 12"),
    "heads": ({"n_head": 3}, "multiple of num_heads, got 16 and 3"),
    "a text": ({"n_embd": "16"}, "num_channels must be a whole number"),
    "a flag": ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
    "epsilon": ({"layer_norm_epsilon": 0}, "norm_epsilon"),
    "eos": ({"eos_token_id": "end"}, "eos_token_id"),
    "rows": ({"vocab_size": 31}, r"wte.weight has shape \(30, 16\), expected \(31, 16\)"),
    "too many layers": ({"n_layer": 10**12}, "layers, the files 28 tensors"),
    "huge": ({"vocab_size": 10**30}, "size over"),
    "too long to be spelt": ({"n_embd": 2 * (10**4_299 - 1)}, "2\\*\\*128 or more"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str, hf_dir: Path, edit_config: EditConfig) -> None:
    fields, message = REFUSED[name]
    (hf_dir / "generation_config.json").unlink()
    edit_config(hf_dir, **fields)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(hf_dir)


def test_a_head_of_a_dtype_that_torch_cannot_compare(
    hf_dir: Path, edit_tensors: EditTensors
) -> None:
    def narrow(tensors: Tensors) -> None:
        rows = torch.zeros(30, 16, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
        tensors |= {"lm_head.weight": rows, "transformer.wte.weight": rows.clone()}

    edit_tensors(hf_dir, narrow)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is F4, only float32"):
        open_checkpoint(hf_dir)


def test_every_problem_is_in_one_message(
    hf_dir: Path, edit_config: EditConfig, edit_tensors: EditTensors
) -> None:
    def spoil(tensors: Tensors) -> None:
        del tensors["transformer.h.0.ln_1.weight"]
        del tensors["transformer.h.1.mlp.c_fc.bias"]
        tensors["transformer.surplus"] = torch.ones(2)
        tensors["score.weight"] = torch.ones(2, 16)
        tensors["transformer.h.0.mlp.c_fc.weight"] = torch.ones(64, 16)
        tensors["transformer.ln_f.bias"] = torch.ones(16, dtype=torch.float64)

    edit_tensors(hf_dir, spoil)
    edit_config(hf_dir, add_cross_attention=True, n_ctx=99)
    (hf_dir / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(hf_dir)
    expected = (
        "add_cross_attention",
        "n_ctx is 99",
        "generation_config.json is not readable",
        "h.0.ln_1.weight is missing",
        "h.1.mlp.c_fc.bias is missing",
        "unexpected tensor surplus",
        "score.weight is a task head",
        "h.0.mlp.c_fc.weight has shape (64, 16), expected (16, 64)",
        "ln_f.bias is F64",
    )
    assert len(caught.value.problems) == len(expected)
    for part in expected:
        assert part in str(caught.value)


def test_a_tensor_under_both_names(hf_dir: Path, edit_tensors: EditTensors) -> None:
    def double(tensors: Tensors) -> None:
        tensors["wpe.weight"] = tensors["transformer.wpe.weight"].clone()

    edit_tensors(hf_dir, double)
    with pytest.raises(CheckpointError, match=r"wpe\.weight is there twice"):
        open_checkpoint(hf_dir)


# --- shards ----------------------------------------------------------------------------------


@pytest.fixture
def sharded(hf_writer: Writer) -> Path:
    return hf_writer(max_shard_size="5KB")


def edit_index(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = path / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index["weight_map"])
    file.write_text(json.dumps(index))


def test_a_missing_shard(sharded: Path) -> None:
    shard = min(sharded.glob("model-*.safetensors"))
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name} is missing"):
        open_checkpoint(sharded)


def test_a_shard_that_the_index_does_not_name(sharded: Path) -> None:
    shutil.copy(
        min(sharded.glob("model-*.safetensors")), sharded / "model-00099-of-00099.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"model-00099-of-00099\.safetensors is not named"):
        open_checkpoint(sharded)


def test_a_tensor_in_another_shard_than_the_index_says(sharded: Path) -> None:
    shards = sorted(p.name for p in sharded.glob("model-*.safetensors"))

    def swap(weight_map: dict[str, str]) -> None:
        weight_map["transformer.wte.weight"] = shards[-1]
        weight_map["transformer.nowhere"] = shards[0]
        del weight_map["transformer.ln_f.bias"]

    edit_index(sharded, swap)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(sharded)
    for part in ("wte.weight is not in", "nowhere is not in", "ln_f.bias of", "is not named in"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "model.bin", "..", 5, None]
)
def test_an_index_cannot_lead_out_of_the_directory(name: object, sharded: Path) -> None:
    save_file({"transformer.wte.weight": torch.ones(30, 16)}, sharded.parent / "secret.safetensors")

    def lead_out(weight_map: dict[str, Any]) -> None:
        weight_map["transformer.wte.weight"] = name

    edit_index(sharded, lead_out)
    with pytest.raises(CheckpointError, match="which is no shard"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"weight_map": {}}', '{"weight_map": 3}'])
def test_a_malformed_index(content: str, sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        open_checkpoint(sharded)
