"""Conversion of what transformers writes, model and tokenizer alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GPT2TokenizerFast

from model.tokenizer import Tokenizer
from weights.checkpoint import CheckpointError, open_checkpoint
from weights.convert import convert
from weights.stored import file_sha256

Tensors = dict[str, torch.Tensor]
EditTensors = Callable[[Path, Callable[[Tensors], None]], None]
Writer = Callable[..., Path]


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "5KB"}, {"tie_word_embeddings": False}])
def test_converted_equals_the_source(
    options: dict[str, object], hf_writer: Writer, tmp_path: Path
) -> None:
    source = hf_writer(**options)
    told: list[tuple[int, int]] = []
    dest = tmp_path / "ours"
    converted = convert(source, dest, progress=lambda *done: told.append(done))
    original = open_checkpoint(source)
    assert converted.path == dest
    assert converted.config == original.config
    assert converted.tensors.keys() == original.tensors.keys()
    for name, tensor in original.tensors.items():
        assert torch.equal(converted.tensors[name], tensor)
    assert told[-1][0] == told[-1][1] > 0
    record = json.loads((dest / "source.json").read_text())
    assert record["format"] == "hf_gpt2"
    assert record["model_sha256"] == file_sha256(dest / "model.safetensors")
    assert record["sha256"]["config.json"] == file_sha256(source / "config.json")
    assert all(file_sha256(source / name) == found for name, found in record["sha256"].items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_to_another_dtype(dtype: str, hf_dir: Path, tmp_path: Path) -> None:
    converted = convert(hf_dir, tmp_path / "ours", dtype)
    for name, tensor in open_checkpoint(hf_dir).tensors.items():
        assert torch.equal(converted.tensors[name], tensor.to(getattr(torch, dtype)))


def test_ours_converts_again_and_remembers_its_origin(hf_dir: Path, tmp_path: Path) -> None:
    convert(hf_dir, tmp_path / "ours")
    again = convert(tmp_path / "ours", tmp_path / "again", "bfloat16")
    assert again.source["origin"] == str(hf_dir)
    assert again.source["format"] == "hf_gpt2"
    assert again.tensors["wte.weight"].dtype == torch.bfloat16


def test_model_and_tokenizer_of_transformers(
    shared_data: Path, hf_writer: Writer, tmp_path: Path
) -> None:
    source = hf_writer(vocab_size=50_257)
    vocab = shared_data / "vocab" / "gpt2"
    theirs = GPT2TokenizerFast(vocab=str(vocab / "encoder.json"), merges=str(vocab / "vocab.bpe"))
    theirs.save_pretrained(source)
    (source / "README.md").write_text("not for the copy")
    convert(source, tmp_path / "ours")
    tokenizer = Tokenizer.from_directory(tmp_path / "ours")
    text = "Hello, <|endoftext|> world"
    assert tokenizer.encode(text) == theirs(text)["input_ids"]
    assert {entry.name for entry in (tmp_path / "ours").iterdir()} == {
        *("config.json", "model.safetensors", "source.json"),
        *("tokenizer.json", "tokenizer_config.json"),
    }


def test_every_problem_is_in_one_message(
    hf_dir: Path, edit_tensors: EditTensors, tmp_path: Path
) -> None:
    def spoil(tensors: Tensors) -> None:
        del tensors["transformer.ln_f.bias"]

    edit_tensors(hf_dir, spoil)
    (hf_dir / "vocab.json").write_text("{}")
    (tmp_path / "ours").mkdir()
    with pytest.raises(CheckpointError) as caught:
        convert(hf_dir, tmp_path / "ours", "int3")
    expected = (
        "dtype must be one of float32, bfloat16, float16, got 'int3'",
        "exists already",
        "ln_f.bias is missing",
        "merges.txt is missing",
    )
    assert len(caught.value.problems) == len(expected)
    assert all(part in str(caught.value) for part in expected)


def test_a_vocabulary_larger_than_the_embedding(
    shared_data: Path, hf_dir: Path, tmp_path: Path
) -> None:
    for name in ("encoder.json", "vocab.bpe"):
        (hf_dir / name).write_bytes((shared_data / "vocab" / "gpt2" / name).read_bytes())
    with pytest.raises(CheckpointError, match="ids up to 50256, the embedding only 30 rows"):
        convert(hf_dir, tmp_path / "ours")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_none(
    value: float, hf_dir: Path, edit_tensors: EditTensors, tmp_path: Path
) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors["transformer.h.1.ln_2.bias"][3] = value
        tensors["transformer.wte.weight"][0, :2] = value

    edit_tensors(hf_dir, spoil)
    with pytest.raises(CheckpointError) as caught:
        convert(hf_dir, tmp_path / "ours")
    assert sorted(problem.split("tensor ")[1] for problem in caught.value.problems) == [
        "h.1.ln_2.bias has 1 values that are NaN or infinite",
        "wte.weight has 2 values that are NaN or infinite",
    ]
    assert not (tmp_path / "ours").exists()


def test_a_value_too_large_for_the_dtype(
    hf_dir: Path, edit_tensors: EditTensors, tmp_path: Path
) -> None:
    def enlarge(tensors: Tensors) -> None:
        tensors["transformer.ln_f.bias"][0] = 1e5

    edit_tensors(hf_dir, enlarge)
    with pytest.raises(CheckpointError, match=r"ln_f\.bias has 1 values"):
        convert(hf_dir, tmp_path / "ours", "float16")
    assert convert(hf_dir, tmp_path / "ours", "bfloat16").config.num_layers == 2


def test_a_missing_parent_is_named(hf_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no is not a directory"):
        convert(hf_dir, tmp_path / "no" / "ours")
