"""Export: what transformers opens, and the same bits there and back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, GPT2LMHeadModel

from model.config import Activation, GPTConfig
from model.decoder import parameter_shapes
from model.tokenizer import Tokenizer
from tests.support.logits import assert_close, logits_of
from tests.support.nano_models import nano_gpt, nano_values
from tests.support.vocabularies import saved, trained
from weights.checkpoint import CheckpointError, open_checkpoint, save_checkpoint
from weights.convert import convert
from weights.export import export

Tensors = dict[str, torch.Tensor]
Writer = Callable[..., Path]

CONFIG = GPTConfig(
    vocab_size=300, num_positions=12, num_channels=16, num_layers=2, num_heads=2, num_inner=24
)
TEXT = "the cat <|endoftext|> naïve  世界\n\n<|x|> 123"


def random_tensors(config: GPTConfig) -> Tensors:
    torch.manual_seed(0)
    return {name: torch.randn(shape) for name, shape in parameter_shapes(config).items()}


def save(path: Path, config: GPTConfig = CONFIG, vocabulary: Path | None = None) -> Path:
    return save_checkpoint(path, config, random_tensors(config), vocabulary, {}).path


def is_same(some: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]) -> bool:
    """Bit for bit: torch.equal alone takes -0.0 for 0.0."""
    return some.keys() == others.keys() and all(
        some[name].dtype == others[name].dtype
        and some[name].shape == others[name].shape
        and torch.equal(*(t[name].contiguous().view(torch.uint8) for t in (some, others)))
        for name in some
    )


def opened(path: Path) -> Any:
    """The model that transformers makes of it, with nothing missing and nothing left over."""
    model, told = GPT2LMHeadModel.from_pretrained(path, output_loading_info=True)
    assert not any(told.values()), told
    return model.eval()


VARIANTS: dict[str, dict[str, Any]] = {
    **{activation: {"activation": activation} for activation in get_args(Activation)},
    "untied": {"is_head_tied": False},
    "unscaled": {"is_attention_scaled": False},
    "layer scaled": {"is_attention_layer_scaled": True},
    "epsilon": {"norm_epsilon": 0.1},
    "an end": {"eos_token_ids": (7,)},
    "ends": {"eos_token_ids": (7, 3)},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_transformers_computes_the_same(name: str, tmp_path: Path) -> None:
    config = replace(CONFIG, **VARIANTS[name])
    ours = open_checkpoint(save(tmp_path / "ours", config))
    model = opened(export(ours.path, tmp_path / "hf").path)
    ids = torch.arange(9) * 31 % config.vocab_size
    with torch.no_grad():
        assert_close(logits_of(ours, ids), model(ids[None]).logits[0])
    ends = config.eos_token_ids
    expected = list(ends) if len(ends) > 1 else ends[0] if ends else None
    assert model.generation_config.eos_token_id == expected
    assert model.generation_config.bos_token_id == (ends[0] if ends else None)
    again = convert(tmp_path / "hf", tmp_path / "again")
    assert again.config == config
    assert is_same(again.tensors, ours.tensors)


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": False}, {"max_shard_size": "5KB"}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_there_and_back_bit_for_bit(
    options: dict[str, Any], dtype: torch.dtype, hf_writer: Writer, tmp_path: Path
) -> None:
    theirs = hf_writer(dtype=dtype, **options)
    convert(theirs, tmp_path / "ours")
    export(tmp_path / "ours", tmp_path / "back")
    before: Tensors = {}
    for file in theirs.glob("*.safetensors"):
        before |= load_file(file)
    assert is_same(load_file(tmp_path / "back" / "model.safetensors"), before)
    assert opened(tmp_path / "back").dtype == dtype


def test_the_same_weights_have_the_same_file_wherever_they_came_from(tmp_path: Path) -> None:
    config, tensors = CONFIG, random_tensors(CONFIG)
    shuffled = dict(sorted(tensors.items(), reverse=True))
    ours = [
        save_checkpoint(tmp_path / "ordered", config, tensors, None, {}),
        save_checkpoint(tmp_path / "shuffled", config, shuffled, None, {}),
    ]
    export(ours[0].path, tmp_path / "hf")
    ours.append(convert(tmp_path / "hf", tmp_path / "back"))
    assert len({(one.path / "model.safetensors").read_bytes() for one in ours}) == 1
    assert len({one.weights_hash for one in ours}) == 1


def test_hugging_face_to_hugging_face_without_a_stop(hf_dir: Path, tmp_path: Path) -> None:
    export(hf_dir, tmp_path / "back")
    written = load_file(tmp_path / "back" / "model.safetensors")
    assert is_same(written, load_file(hf_dir / "model.safetensors"))
    assert {file.name for file in (tmp_path / "back").iterdir()} == {
        "config.json",
        "model.safetensors",
    }


def test_zeros_for_biases_and_special_values_stay(tmp_path: Path) -> None:
    torch.save(nano_values(nano_gpt(bias=False), bias=False), tmp_path / "ckpt.pt")
    nano = convert(tmp_path / "ckpt.pt", tmp_path / "ours")
    model = opened(export(nano.path, tmp_path / "hf").path)
    assert model.config.activation_function == "gelu"
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith(".bias"))
    tensors = random_tensors(CONFIG)
    tensors["ln_f.bias"][:2] = torch.tensor([-0.0, 1e-44])
    save_checkpoint(tmp_path / "special", CONFIG, tensors, None, {})
    assert is_same(export(tmp_path / "special", tmp_path / "b").tensors, tensors)


def test_mixed_dtypes_are_kept_and_opened_in_one_that_holds_all(tmp_path: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in random_tensors(CONFIG).items()}
    tensors["ln_f.bias"] = tensors["ln_f.bias"].half()
    save_checkpoint(tmp_path / "ours", CONFIG, tensors, None, {})
    assert is_same(export(tmp_path / "ours", tmp_path / "hf").tensors, tensors)
    values = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert values["dtype"] == values["torch_dtype"] == "float32"
    assert opened(tmp_path / "hf").dtype == torch.float32


def test_the_trained_sorter_is_what_it_was(shared_data: Path, tmp_path: Path) -> None:
    theirs = shared_data / "trained" / "gpt-nano-sort"
    convert(theirs, tmp_path / "ours")
    export(tmp_path / "ours", tmp_path / "back")
    before = load_file(theirs / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    strip = {name.removeprefix("transformer."): tensor for name, tensor in before.items()}
    assert is_same({name.removeprefix("transformer."): t for name, t in after.items()}, strip)


# --- the tokenizer ---------------------------------------------------------------------------


def as_pair(path: Path, tokenizer: Any, names: tuple[str, str]) -> Path:
    path.mkdir()
    tokenizer.save_model(str(path))
    for old, new in zip(("vocab.json", "merges.txt"), names, strict=True):
        (path / old).rename(path / new)
    return path


SPECIAL: dict[str, list[str]] = {"end of text": ["<|x|>", "<|endoftext|>"], "none": []}
LAYOUTS: dict[str, Callable[[Path, Any], Path]] = {
    "tokenizer.json": lambda path, tokenizer: saved(tokenizer, path),
    "vocab.bpe": lambda path, tokenizer: as_pair(path, tokenizer, ("encoder.json", "vocab.bpe")),
    "merges.txt": lambda path, tokenizer: as_pair(path, tokenizer, ("vocab.json", "merges.txt")),
}


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_auto_tokenizer_gives_the_same_ids(layout: str, special: str, tmp_path: Path) -> None:
    vocabulary = LAYOUTS[layout](tmp_path / "vocabulary", trained(SPECIAL[special]))
    config = replace(CONFIG, eos_token_ids=(1,) if special != "none" else ())
    ours = save(tmp_path / "ours", config, vocabulary)
    export(ours, tmp_path / "hf")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    tokenizer = Tokenizer.from_directory(ours)
    ids = tokenizer.encode(TEXT)
    assert theirs(TEXT)["input_ids"] == ids
    assert theirs.decode(ids) == TEXT
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.eos_token_id == (1 if special != "none" else None)
    assert theirs.eos_token == (None if special == "none" else "<|endoftext|>")
    assert theirs.model_max_length == CONFIG.num_positions
    written = {file.name for file in (tmp_path / "hf").iterdir()}
    files = {"tokenizer.json"} if layout == "tokenizer.json" else {"vocab.json", "merges.txt"}
    weights = {"config.json", "model.safetensors"}
    assert written == files | weights | {"tokenizer_config.json"}
    again = convert(tmp_path / "hf", tmp_path / "again")
    assert Tokenizer.from_directory(again.path).encode(TEXT) == ids


def test_another_token_that_ends(tmp_path: Path) -> None:
    vocabulary = saved(trained(["<|x|>", "<|endoftext|>"]), tmp_path / "vocabulary")
    ours = save(tmp_path / "ours", replace(CONFIG, eos_token_ids=(0, 1)), vocabulary)
    export(ours, tmp_path / "hf")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert (theirs.eos_token, theirs.bos_token, theirs.unk_token) == (
        *("<|x|>", "<|x|>"),
        "<|endoftext|>",
    )
    assert theirs(TEXT)["input_ids"] == Tokenizer.from_directory(ours).encode(TEXT)


def test_added_tokens_come_along(tmp_path: Path) -> None:
    names = ("encoder.json", "vocab.bpe")
    vocabulary = as_pair(tmp_path / "vocabulary", trained(["<|endoftext|>"]), names)
    (vocabulary / "added_tokens.json").write_text('{"<|x|>": 295}')
    (vocabulary / "special_tokens_map.json").write_text('{"pad_token": "<|x|>"}')
    ours = save(tmp_path / "ours", vocabulary=vocabulary)
    export(ours, tmp_path / "hf")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    ids = Tokenizer.from_directory(ours).encode(TEXT)
    assert 295 in ids
    assert theirs(TEXT)["input_ids"] == ids
    assert theirs.pad_token_id == 295


def test_a_tokenizer_config_of_its_own_stays(tmp_path: Path) -> None:
    vocabulary = saved(trained(["<|endoftext|>"]), tmp_path / "vocabulary")
    content = '{"tokenizer_class": "GPT2Tokenizer", "model_max_length": 77}'
    (vocabulary / "tokenizer_config.json").write_text(content)
    as_pair(tmp_path / "other", trained(), ("encoder.json", "vocab.bpe"))
    for file in (tmp_path / "other").iterdir():  # not used beside a tokenizer.json
        file.rename(vocabulary / file.name)
    export(save(tmp_path / "ours", vocabulary=vocabulary), tmp_path / "hf")
    assert (tmp_path / "hf" / "tokenizer_config.json").read_text() == content
    assert not (tmp_path / "hf" / "vocab.json").exists()
    assert AutoTokenizer.from_pretrained(tmp_path / "hf").model_max_length == 77


def test_the_real_vocabulary(shared_data: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, vocab_size=50_257, eos_token_ids=(50_256,))
    ours = save(tmp_path / "ours", config, shared_data / "vocab" / "gpt2")
    export(ours, tmp_path / "hf")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert theirs(TEXT)["input_ids"] == Tokenizer.from_directory(ours).encode(TEXT)
    assert theirs.eos_token_id == 50_256


# --- what is refused -------------------------------------------------------------------------


def test_every_problem_is_in_one_message(tmp_path: Path) -> None:
    ours = save(tmp_path / "ours")
    (ours / "vocab.json").write_text("{}")
    (ours / "source.json").unlink()
    (tmp_path / "hf").mkdir()
    with pytest.raises(CheckpointError) as caught:
        export(ours, tmp_path / "hf")
    expected = ("hf: exists already", "ours: source.json is missing", "merges.txt is missing")
    assert len(caught.value.problems) == len(expected)
    assert all(part in str(caught.value) for part in expected)


def test_what_cannot_be_served_is_not_exported(tmp_path: Path) -> None:
    torch.save(nano_values(nano_gpt()), tmp_path / "ckpt.pt")
    for source in (tmp_path, tmp_path / "ckpt.pt", tmp_path / "nowhere"):
        with pytest.raises(CheckpointError):
            export(source, tmp_path / "hf")
    with pytest.raises(CheckpointError, match="no is not a directory"):
        export(save(tmp_path / "ours"), tmp_path / "no" / "hf")


def test_numbers_that_are_none(hf_dir: Path, edit_tensors: Any, tmp_path: Path) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors["transformer.h.1.mlp.c_fc.weight"][3, 4] = torch.nan

    edit_tensors(hf_dir, spoil)
    with pytest.raises(CheckpointError, match=r"hf: tensor h\.1\.mlp\.c_fc\.weight has 1 values"):
        export(hf_dir, tmp_path / "hf2")


@pytest.mark.parametrize("at_sync", range(4))
def test_a_full_disk_leaves_nothing(
    at_sync: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = saved(trained(), tmp_path / "vocabulary")
    ours = save(tmp_path / "ours", vocabulary=vocabulary)
    calls = iter(range(99))

    def full(descriptor: int) -> None:
        if next(calls) >= at_sync:
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError) as caught:
        export(ours, tmp_path / "hf")
    assert str(caught.value) == f"{tmp_path / 'hf'}: No space left on device"
    assert {entry.name for entry in tmp_path.iterdir()} == {"ours", "vocabulary"}
