"""nanoGPT's and minGPT's files: the same logits as the models that wrote them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from model.tokenizer import Tokenizer
from tests.support.logits import assert_close, logits_of
from tests.support.nano_models import SIZES, min_gpt, nano_gpt, nano_values, save_min
from tests.support.trap import Trap
from tests.support.vocabularies import saved, trained
from weights.checkpoint import CheckpointError, open_checkpoint, open_source
from weights.convert import convert

State = dict[str, Any]

IDS = torch.arange(9) * 3 % SIZES["vocab_size"]


def save_nano(path: Path, values: object) -> Path:
    torch.save(values, path)
    return path


@pytest.fixture
def nano_file(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return save_nano(tmp_path / "out" / "ckpt.pt", nano_values(nano_gpt()))


def edit(path: Path, change: Callable[[Any], None]) -> Path:
    values = torch.load(path, weights_only=True)
    change(values)
    torch.save(values, path)
    return path


def without(names: Mapping[str, Any], *gone: str) -> State:
    return {name: value for name, value in names.items() if name not in gone}


# --- nanoGPT ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("is_directory", [True, False])
def test_nano_gpt_computes_what_it_did(bias: bool, is_directory: bool, tmp_path: Path) -> None:
    model = nano_gpt(bias=bias)
    file = save_nano(tmp_path / "ckpt.pt", nano_values(model, bias=bias))
    checkpoint = convert(tmp_path if is_directory else file, tmp_path / "ours")
    assert checkpoint.config.is_head_tied
    assert checkpoint.config.activation == "gelu_erf"
    assert checkpoint.config.eos_token_ids == ()
    assert_close(logits_of(checkpoint, IDS), model(IDS))
    assert checkpoint.source["format"] == "nanogpt"
    filled = ["bias is False: every bias was filled with zeros"]
    assert checkpoint.source.get("changes", []) == ([] if bias else filled)
    assert checkpoint.source["sha256"].keys() == {"ckpt.pt"}


def test_the_two_forms_of_gelu_differ_more_than_the_tolerance() -> None:
    exact, tanh = nano_gpt(), nano_gpt(approximate="tanh")
    with pytest.raises(AssertionError):
        assert_close(tanh(IDS), exact(IDS))


def test_a_file_from_before_bias_was_an_argument(tmp_path: Path) -> None:
    model = nano_gpt(approximate="tanh")
    values = nano_values(model)
    del values["model_args"]["bias"]
    checkpoint = open_source(save_nano(tmp_path / "ckpt.pt", values))
    assert_close(logits_of(checkpoint, IDS), model(IDS))


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod.module."]
)
def test_prefixes_of_compile_and_ddp(prefix: str, tmp_path: Path) -> None:
    model = nano_gpt()
    values = nano_values(model)
    values["model"] = {prefix + name: tensor for name, tensor in values["model"].items()}
    checkpoint = open_source(save_nano(tmp_path / "ckpt.pt", values))
    assert_close(logits_of(checkpoint, IDS), model(IDS))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_are_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    values = nano_values(nano_gpt(bias=False), bias=False)
    state = {name: tensor.to(dtype) for name, tensor in values["model"].items()}
    file = save_nano(tmp_path / "ckpt.pt", {**values, "model": state})
    checkpoint = open_source(file)
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {dtype}
    assert torch.equal(checkpoint.tensors["wpe.weight"], state["transformer.wpe.weight"])


def test_masks_and_legacy_files(tmp_path: Path) -> None:
    model = nano_gpt()
    values = nano_values(model)
    values["model"]["transformer.h.0.attn.bias"] = torch.ones(1, 1, 12, 12)
    torch.save(values, tmp_path / "ckpt.pt", _use_new_zipfile_serialization=False)
    assert_close(logits_of(open_source(tmp_path / "ckpt.pt"), IDS), model(IDS))


def test_a_head_of_its_own_is_kept(nano_file: Path) -> None:
    head = torch.randn(30, 16)
    edit(nano_file, lambda values: values["model"].update({"lm_head.weight": head}))
    checkpoint = open_source(nano_file)
    assert not checkpoint.config.is_head_tied
    assert torch.equal(checkpoint.tensors["lm_head.weight"], head)


# --- padding and vocabulary ------------------------------------------------------------------

NUM_TOKENS = 295


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    """295 tokens, the first of which ends a text."""
    return saved(trained(["<|endoftext|>"]), tmp_path / "vocabulary")


@pytest.mark.parametrize("rows", [320, 384])
def test_padding_is_cut_where_the_vocabulary_is_known(
    rows: int, tmp_path: Path, vocabulary: Path
) -> None:
    model = nano_gpt(vocab_size=rows)
    file = save_nano(tmp_path / "ckpt.pt", nano_values(model, vocab_size=rows))
    checkpoint = convert(file, tmp_path / "ours", vocabulary=vocabulary)
    assert Tokenizer.from_directory(checkpoint.path).vocab_size == NUM_TOKENS
    assert checkpoint.config.vocab_size == NUM_TOKENS
    assert checkpoint.config.eos_token_ids == (0,)
    assert_close(logits_of(checkpoint, IDS), model(IDS)[:, :NUM_TOKENS])
    assert checkpoint.source["vocabulary"] == str(vocabulary)
    assert checkpoint.source["sha256"].keys() == {"ckpt.pt", "tokenizer.json"}
    (change,) = checkpoint.source["changes"]
    assert change.startswith(f"rows 295 to {rows - 1} of the embedding and the head were cut off")
    again = convert(checkpoint.path, tmp_path / "again")
    assert again.source["changes"] == [change]


@pytest.mark.parametrize("rows", [NUM_TOKENS, 300, 448])
def test_what_is_no_padding_is_kept(rows: int, tmp_path: Path, vocabulary: Path) -> None:
    """As many rows as tokens, not a multiple of 64, 153 rows too many."""
    model = nano_gpt(vocab_size=rows)
    file = save_nano(tmp_path / "ckpt.pt", nano_values(model, vocab_size=rows))
    checkpoint = convert(file, tmp_path / "ours", vocabulary=vocabulary)
    assert checkpoint.config.vocab_size == rows
    assert "changes" not in checkpoint.source
    assert_close(logits_of(checkpoint, IDS), model(IDS))


def test_without_a_vocabulary_every_row_is_kept(tmp_path: Path) -> None:
    file = save_nano(tmp_path / "a.pt", nano_values(nano_gpt(vocab_size=320), vocab_size=320))
    assert convert(file, tmp_path / "ours").config.vocab_size == 320


def test_an_untied_head_is_cut_too(tmp_path: Path, vocabulary: Path) -> None:
    model = min_gpt(vocab_size=320)
    source = save_min(tmp_path / "run", model, {"n_layer": 2, "n_head": 2, "n_embd": 16})
    checkpoint = convert(source, tmp_path / "ours", vocabulary=vocabulary)
    assert_close(logits_of(checkpoint, IDS), model(IDS)[:, :NUM_TOKENS])


def test_beside_a_file_nothing_else_is_taken(tmp_path: Path, vocabulary: Path) -> None:
    """Of a directory that is named, the vocabulary is; beside a file, anything can lie."""
    values = nano_values(nano_gpt(vocab_size=320), vocab_size=320)
    file = save_nano(vocabulary / "ckpt.pt", values)
    (vocabulary / "config.json").write_text("{")
    alone = convert(file, tmp_path / "alone")
    assert not (alone.path / "tokenizer.json").exists()
    assert alone.source["sha256"].keys() == {"ckpt.pt"}
    (vocabulary / "config.json").unlink()
    whole = convert(vocabulary, tmp_path / "whole")
    assert (whole.path / "tokenizer.json").exists()
    assert whole.config.vocab_size == NUM_TOKENS


def test_the_real_vocabulary(shared_data: Path, tmp_path: Path) -> None:
    model = nano_gpt(vocab_size=50_304, n_embd=4)
    file = save_nano(tmp_path / "ckpt.pt", nano_values(model, vocab_size=50_304, n_embd=4))
    checkpoint = convert(file, tmp_path / "ours", vocabulary=shared_data / "vocab" / "gpt2")
    assert checkpoint.config.vocab_size == 50_257
    assert checkpoint.config.eos_token_ids == (50_256,)


def test_a_vocabulary_must_be_there_and_fit(nano_file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere has no vocabulary"):
        convert(nano_file, tmp_path / "ours", vocabulary=tmp_path / "nowhere")
    large = saved(trained(), tmp_path / "large")
    with pytest.raises(CheckpointError, match="ids up to 293, the embedding only 30 rows"):
        convert(nano_file, tmp_path / "ours", vocabulary=large)


# --- minGPT ----------------------------------------------------------------------------------


SETTINGS: dict[str, State] = {
    "by numbers": {"model_type": None, "n_layer": 2, "n_head": 2, "n_embd": 16},
    "by name": {"model_type": "gpt-nano"},
    "no config.json": {},
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_min_gpt_computes_what_it_did(kind: str, tmp_path: Path) -> None:
    sizes = {"n_layer": 3, "n_head": 3, "n_embd": 48} if kind == "by name" else {}
    model = min_gpt(**sizes)
    source = save_min(tmp_path / "run", model, SETTINGS[kind] or None)
    hint = 2 if kind == "no config.json" else None
    checkpoint = convert(source, tmp_path / "ours", num_heads=hint)
    assert not checkpoint.config.is_head_tied
    assert checkpoint.config.activation == "gelu_tanh"
    assert_close(logits_of(checkpoint, IDS), model(IDS))
    assert checkpoint.source["format"] == "mingpt"
    files = {"model.pt"} if hint else {"model.pt", "config.json"}
    assert checkpoint.source["sha256"].keys() == files
    alone = convert(source / "model.pt", tmp_path / "alone", num_heads=hint)
    assert alone.config == checkpoint.config
    assert alone.source["sha256"].keys() == files


def test_serving_says_what_to_do(nano_file: Path, tmp_path: Path) -> None:
    save_min(tmp_path / "run", min_gpt(), SETTINGS["by numbers"])
    for path, name in ((nano_file.parent, "ckpt.pt"), (tmp_path / "run", "model.pt")):
        with pytest.raises(CheckpointError, match=f"{name} is a pickle.*gpt2-server convert makes"):
            open_checkpoint(path)


BAD_SETTINGS: dict[str, tuple[State | None, int | None, str]] = {
    "no config.json": (None, None, "needs the config.json of its run beside it, or --num-heads"),
    "another model": ({"model_type": "gpt-mini"}, None, "n_layer 6, but the tensors have 2"),
    "other channels": ({"n_layer": 2, "n_head": 2, "n_embd": 8}, None, "n_embd 8, but the tens"),
    "unknown type": ({"model_type": "gpt-5"}, None, "model_type 'gpt-5' is not minGPT's"),
    "a list": ({"model_type": ["gpt-mini"]}, None, r"model_type \['gpt-mini'\] is not"),
    "no heads": ({"n_layer": 2, "n_embd": 16}, None, "--num-heads"),
    "odd heads": ({"n_layer": 2, "n_head": "2", "n_embd": 16}, None, "num_heads must be a whole"),
    "too many": (None, 3, "num_channels must be a multiple of num_heads, got 16 and 3"),
    "disagreement": (SETTINGS["by numbers"], 4, "num_heads is 4, but .* says 2"),
}


@pytest.mark.parametrize("kind", BAD_SETTINGS)
def test_heads_that_are_not_known(kind: str, tmp_path: Path) -> None:
    settings, hint, message = BAD_SETTINGS[kind]
    source = save_min(tmp_path / "run", min_gpt(), settings)
    with pytest.raises(CheckpointError, match=message):
        convert(source, tmp_path / "ours", num_heads=hint)


def test_another_config_json_beside_it_is_not_its_own(tmp_path: Path) -> None:
    source = save_min(tmp_path / "run", min_gpt(), None)
    (source / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_head": 4}))
    assert convert(source, tmp_path / "ours", num_heads=2).config.num_heads == 2


def test_heads_that_the_source_knows(nano_file: Path, tmp_path: Path) -> None:
    assert convert(nano_file, tmp_path / "ours", num_heads=2).config.num_heads == 2
    with pytest.raises(CheckpointError, match=r"num_heads is 4, but .*ckpt\.pt says 2"):
        convert(nano_file, tmp_path / "other", num_heads=4)


# --- what is refused -------------------------------------------------------------------------


def args(**changes: Any) -> Callable[[Any], None]:
    return lambda values: values["model_args"].update(changes)


REFUSED: dict[str, tuple[Callable[[Any], None], str]] = {
    "a fork": (args(use_rmsnorm=True), "model_args has 'use_rmsnorm', which is not nanoGPT's"),
    "no heads": (lambda values: values["model_args"].pop("n_head"), "model_args has no n_head"),
    "no arguments": (lambda values: values.pop("model_args"), "but no model_args"),
    "no size": (args(vocab_size=None), "vocab_size must be a whole number"),
    "a float": (args(n_embd=16.0), "num_channels must be a whole number"),
    "odd heads": (args(n_head=3), "multiple of num_heads, got 16 and 3"),
    "odd bias": (args(bias="yes"), "bias must be true or false, got 'yes'"),
    "bias after all": (args(bias=False), r"unexpected tensor h\.0\.ln_1\.bias"),
    "rows": (args(vocab_size=31), r"wte\.weight has shape \(30, 16\), expected \(31, 16\)"),
    "layers": (args(n_layer=10**9), "1,000,000,000 layers"),
    "double": (
        lambda values: values["model"].update({"lm_head.weight": torch.ones(30, 16).double()}),
        r"lm_head\.weight is torch\.float64",
    ),
    "no tensor": (lambda values: values["model"].update(step=3), r"ckpt\.pt: step is no tensor"),
    "twice": (
        lambda values: values["model"].update({"module.lm_head.weight": torch.ones(1)}),
        r"lm_head\.weight is there twice, as lm_head\.weight and module\.lm_head\.weight",
    ),
    "missing": (
        lambda values: values["model"].pop("transformer.h.1.ln_2.bias"),
        r"h\.1\.ln_2\.bias is missing",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_name(kind: str, nano_file: Path, tmp_path: Path) -> None:
    change, message = REFUSED[kind]
    edit(nano_file, change)
    with pytest.raises(CheckpointError, match=message):
        convert(nano_file, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def old_min_gpt() -> State:
    """The first minGPT called its modules by other names."""
    return {"tok_emb.weight": torch.ones(30, 16), "blocks.0.ln1.weight": torch.ones(16)}


def hf_state() -> State:
    state = without(min_gpt().state_dict(), "lm_head.weight")
    return {name: t.t() if t.ndim == 2 and ".h." in name else t for name, t in state.items()}


STATES: dict[str, tuple[object, str]] = {
    "old names": (old_min_gpt(), "neither nanoGPT's .* nor minGPT's"),
    "flat": ({"transformer.wte.weight": torch.ones(3)}, "neither nanoGPT's"),
    "no layers": (without(min_gpt().state_dict(), "lm_head.weight"), r"lm_head\.weight is missing"),
    "nano's bare": (nano_gpt().state_dict(), r"bare state dict whose lm_head\.weight is wte"),
    "matrices turned": (hf_state(), "Hugging Face's matrices, .* convert its whole directory"),
    "a list": ([torch.ones(1)], "model.pt holds list, not a model"),
    "endless name": ({**min_gpt().state_dict(), f"h.{'9' * 5_000}.x": torch.ones(1)}, "unexpected"),
}


@pytest.mark.parametrize("kind", STATES)
def test_another_state_dict(kind: str, tmp_path: Path) -> None:
    state, message = STATES[kind]
    save_nano(tmp_path / "model.pt", state)
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "model.pt", tmp_path / "ours", num_heads=2)


def test_several_files_have_to_be_told_apart(nano_file: Path, tmp_path: Path) -> None:
    (nano_file.parent / "older.pt").write_bytes(nano_file.read_bytes())
    with pytest.raises(CheckpointError, match=r"holds 2 \.pt files, name one: ckpt\.pt, older\.pt"):
        convert(nano_file.parent, tmp_path / "ours")
    assert convert(nano_file, tmp_path / "ours").config.num_layers == 2


def test_hugging_face_weights_come_before_a_file_beside_them(hf_dir: Path) -> None:
    (hf_dir / "optimizer.pt").write_bytes(b"not even opened")
    assert open_source(hf_dir).source["format"] == "hf_gpt2"


def test_a_trap_does_not_spring(nano_file: Path, tmp_path: Path) -> None:
    edit(nano_file, lambda values: values.update(config=Trap(tmp_path / "canary")))
    with pytest.raises(CheckpointError, match=r"ckpt\.pt is a pickle that names posix\.system"):
        convert(nano_file, tmp_path / "ours")
    assert not (tmp_path / "canary").exists()


def test_a_pickled_vocabulary_is_never_opened(nano_file: Path, tmp_path: Path) -> None:
    """nanoGPT's character models have a meta.pkl; such a model is served by ids."""
    (nano_file.parent / "meta.pkl").write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    checkpoint = convert(nano_file.parent, tmp_path / "ours")
    assert checkpoint.config.eos_token_ids == ()
    assert {file.suffix for file in checkpoint.path.iterdir()} == {".json", ".safetensors"}
