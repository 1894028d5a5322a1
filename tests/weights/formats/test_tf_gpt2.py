"""OpenAI's TensorFlow checkpoints: computed with as TensorFlow does, or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from model.attention import CausalAttention
from model.config import GPTConfig
from model.decoder import GPT
from model.tokenizer import Tokenizer
from server.cli import main
from tests.support.vocabularies import trained
from tests.weights.formats.bundle_writer import write_bundle
from weights.checkpoint import Checkpoint, CheckpointError, open_checkpoint, open_source
from weights.convert import convert
from weights.formats.foreign import Hints
from weights.formats.tensor_bundle import open_bundle
from weights.formats.tf_gpt2 import is_tf_gpt2, read_tf_gpt2
from weights.stored import file_sha256

Variables = dict[str, torch.Tensor]

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "tf_gpt2"
RELEASED = FIXTURES / "released"
FINE_TUNED = FIXTURES / "fine_tuned"
SHARDS = tuple(f"model.ckpt.data-0000{i}-of-00002" for i in range(2))
SIZES = {"n_vocab": 11, "n_ctx": 8, "n_embd": 8, "n_head": 2, "n_layer": 2}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkpoint as TensorFlow wrote it, to be spoiled."""
    return shutil.copytree(RELEASED, tmp_path / "tf")


@pytest.fixture
def fine_tuned(tmp_path: Path) -> Path:
    return shutil.copytree(FINE_TUNED, tmp_path / "fine_tuned")


def released() -> Variables:
    """Copies of the released fixture's variables, by their own names and in their own shapes."""
    bundle = open_bundle(RELEASED / "model.ckpt.index")
    return {name: tensor.clone() for name, tensor in bundle.load(bundle.entries).items()}


def write(path: Path, variables: Variables, **sizes: Any) -> Path:
    """A checkpoint with other variables than TensorFlow wrote."""
    path.mkdir(exist_ok=True)
    write_bundle(path / "model.ckpt.index", variables)
    (path / "hparams.json").write_text(json.dumps({**SIZES, **sizes}))
    return path


def refusal(path: Path) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        read_tf_gpt2(path)
    return caught.value.problems


def logits(checkpoint: Checkpoint, ids: list[int]) -> torch.Tensor:
    model = GPT.on_meta(checkpoint.config)
    model.load_state_dict(dict(checkpoint.tensors), strict=False, assign=True)
    model.lm_head.weight = model.wte.weight
    with torch.no_grad():
        attend = CausalAttention(checkpoint.config, len(ids))
        return model.logits(model(torch.tensor(ids), torch.arange(len(ids)), attend))


# --- what is read ----------------------------------------------------------------------------


@pytest.mark.parametrize("is_converted", [False, True])
def test_our_logits_are_tensorflows(is_converted: bool, tmp_path: Path) -> None:
    checkpoint = convert(RELEASED, tmp_path / "ours") if is_converted else open_source(RELEASED)
    expected = json.loads((FIXTURES / "expected.json").read_text())
    theirs = torch.tensor(expected["logits"])
    difference = (logits(checkpoint, expected["ids"]) - theirs).abs().max()
    assert difference < 1e-5 * theirs.abs().max()


def test_the_configuration() -> None:
    assert read_tf_gpt2(RELEASED).config == GPTConfig(
        vocab_size=11,
        num_positions=8,
        num_channels=8,
        num_layers=2,
        num_heads=2,
        num_inner=32,
        activation="gelu_tanh",
        norm_epsilon=1e-5,
        is_head_tied=True,
    )


def test_every_file_of_weights_is_recorded(tmp_path: Path) -> None:
    record = convert(RELEASED, tmp_path / "ours").source
    assert record["format"] == "tf_gpt2"
    assert record["sha256"] == {
        name: file_sha256(RELEASED / name) for name in ("model.ckpt.index", *SHARDS, "hparams.json")
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_kept_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    variables = {name: tensor.to(dtype) for name, tensor in released().items()}
    ours = read_tf_gpt2(write(tmp_path / "tf", variables)).tensors
    assert all(tensor.is_contiguous() for tensor in ours.values())
    assert torch.equal(ours["wte.weight"], variables["model/wte"])
    assert torch.equal(ours["h.1.ln_2.weight"], variables["model/h1/ln_2/g"])
    assert torch.equal(ours["ln_f.bias"], variables["model/ln_f/b"])
    assert torch.equal(ours["h.0.mlp.c_fc.bias"], variables["model/h0/mlp/c_fc/b"])
    assert torch.equal(ours["h.0.mlp.c_fc.weight"].t(), variables["model/h0/mlp/c_fc/w"][0])


def test_a_fine_tuned_model_is_read_without_its_optimiser() -> None:
    foreign = read_tf_gpt2(FINE_TUNED)
    bundle = open_bundle(FINE_TUNED / "model-7.index")
    assert {"global_step", "beta1_power", "model/wte/Adam", "model/wte/Adam_1"} <= {*bundle.entries}
    assert len(foreign.tensors) == 16
    stored = bundle.load(["model/wte"])["model/wte"]
    assert torch.equal(foreign.tensors["wte.weight"], stored)


@pytest.mark.parametrize(
    "name",
    [
        *("global_step", "beta2_power", "training/beta1_power", "model/wte/Adam_1"),
        *("OptimizeLoss/model/h0/attn/c_attn/w/Momentum", "model/ln_f/g/adam_m"),
    ],
)
def test_what_optimisers_keep_is_left_out(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "tf", {**released(), name: torch.ones(3, dtype=torch.int64)})
    assert len(read_tf_gpt2(path).tensors) == 28


@pytest.mark.parametrize(
    "name",
    [
        *("model/h0/attn/c_attn/lora", "model/value_head/w", "Variable_1", "model/wtf/Adam"),
        *("wte/Adam", "model/wte/ExponentialMovingAverage", "model/h2/ln_1/g", "model/h00/ln_1/g"),
    ],
)
def test_a_variable_that_is_not_known(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "tf", {**released(), name: torch.ones(8)})
    assert refusal(path) == [f"unexpected tensor {name}"]


# --- which index -----------------------------------------------------------------------------

STATES = {
    "relative": 'model_checkpoint_path: "model-7"',
    "absolute": 'model_checkpoint_path: "/home/me/checkpoint/run1/model-7"\n',
    "Windows": r'model_checkpoint_path: "C:\\gpt-2\\checkpoint\\model-7"',
    "single quotes": "model_checkpoint_path:'model-7'",
    "octal": r'model_checkpoint_path: "caf\303\251/model\0557"',
    "after the others": 'all_model_checkpoint_paths: "model-6"\r\nmodel_checkpoint_path: "model-7"',
}


@pytest.mark.parametrize("name", STATES)
def test_the_index_that_checkpoint_names(name: str, fine_tuned: Path) -> None:
    (fine_tuned / "model-6.index").write_bytes(b"")
    (fine_tuned / "checkpoint").write_text(STATES[name])
    assert read_tf_gpt2(fine_tuned).weight_files[0] == "model-7.index"


def test_the_only_index_needs_no_name(fine_tuned: Path) -> None:
    (fine_tuned / "checkpoint").unlink()
    assert read_tf_gpt2(fine_tuned).weight_files[0] == "model-7.index"
    (fine_tuned / "model-6.index").write_bytes(b"")
    assert refusal(fine_tuned) == [
        "checkpoint is missing, which says what to read of model-6.index, model-7.index"
    ]


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ('model_checkpoint_path: "model-8"', "checkpoint names 'model-8.index', which is missing"),
        ('model_checkpoint_path: "a/.."', "checkpoint names '...index', which is missing"),
        (r'model_checkpoint_path: "\000"', r"checkpoint names '\x00.index', which is missing"),
        ("", "checkpoint has no model_checkpoint_path"),
        ('all_model_checkpoint_paths: "model-7"', "checkpoint has no model_checkpoint_path"),
        ('model_checkpoint_path: "model-7', "checkpoint has no model_checkpoint_path"),
        ("\n \t" * 300_000, "checkpoint has no model_checkpoint_path"),
    ],
)
def test_a_state_that_names_nothing(state: str, problem: str, fine_tuned: Path) -> None:
    (fine_tuned / "checkpoint").write_text(state)
    assert refusal(fine_tuned) == [problem]


# --- what is refused -------------------------------------------------------------------------


def test_missing_files(copy: Path) -> None:
    (copy / SHARDS[1]).unlink()
    assert refusal(copy) == [f"{SHARDS[1]} is missing"]
    for name in ("checkpoint", "model.ckpt.index", "hparams.json"):
        (copy / name).unlink()
    assert refusal(copy) == [
        "hparams.json is missing: copy that of the model that this one was fine-tuned from",
        "the index of the variables is missing, as model.ckpt.index",
    ]


HPARAMS: Mapping[str, tuple[Any, list[str]]] = {
    "no object": ([], ["hparams.json must hold an object, not list"]),
    "a size missing": (
        {"n_vocab": 11, "n_ctx": 8, "n_embd": 8},
        ["hparams.json has no n_layer", "hparams.json has no n_head"],
    ),
    "unknown": ({**SIZES, "n_expert": 2}, ["hparams.json: 'n_expert' is not known"]),
    "a text": (
        {**SIZES, "n_embd": "8"},
        [
            "hparams.json: num_channels must be a whole number of at least 1, got '8'",
            "hparams.json: num_inner must be a whole number of at least 1, got '8'",
        ],
    ),
    "heads": (
        {**SIZES, "n_head": 3},
        ["hparams.json: num_channels must be a multiple of num_heads, got 8 and 3"],
    ),
    "vocabulary": (
        {**SIZES, "n_vocab": 12},
        ["tensor model/wte has shape (11, 8), expected (12, 8)"],
    ),
    "positions": (
        {**SIZES, "n_ctx": 9},
        ["tensor model/wpe has shape (8, 8), expected (9, 8)"],
    ),
    "layers": (
        {**SIZES, "n_layer": 10**9},
        ["the configuration has 1,000,000,000 layers, the files 28 tensors"],
    ),
    "huge": (
        {**SIZES, "n_ctx": 10**30},
        [f"the configuration has a size over 268,435,456: {10**30:,}"],
    ),
}


@pytest.mark.parametrize("name", HPARAMS)
def test_sizes_are_refused(name: str, copy: Path) -> None:
    values, problems = HPARAMS[name]
    (copy / "hparams.json").write_text(json.dumps(values))
    assert refusal(copy) == problems


def test_dropout_does_not_matter(copy: Path) -> None:
    values = {**SIZES, "res_dropout": 0.1, "dropout": 0}
    (copy / "hparams.json").write_text(json.dumps(values))
    assert read_tf_gpt2(copy).config == read_tf_gpt2(RELEASED).config


def test_every_problem_is_in_one_message(tmp_path: Path) -> None:
    variables = released()
    for name in ("model/wpe", "model/h1/ln_2/b"):
        del variables[name]
    variables["model/h0/mlp/c_fc/w"] = variables["model/h0/mlp/c_fc/w"].transpose(1, 2)
    variables["model/h0/attn/c_attn/w"] = variables["model/h0/attn/c_attn/w"][0]
    variables["model/ln_f/b"] = variables["model/ln_f/b"].double()
    variables["model/wxe"] = torch.ones(8, 8)
    assert refusal(write(tmp_path / "tf", variables)) == [
        "tensor model/wpe is missing",
        "tensor model/h1/ln_2/b is missing",
        "unexpected tensor model/wxe",
        "tensor model/h0/attn/c_attn/w has shape (8, 24), expected (1, 8, 24)",
        "tensor model/h0/mlp/c_fc/w has shape (1, 32, 8), expected (1, 8, 32)",
        "tensor model/ln_f/b is F64, only float32, bfloat16, float16 are supported",
    ]


def test_a_damaged_value(copy: Path) -> None:
    shard = copy / SHARDS[0]
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    [problem] = refusal(copy)
    assert problem.startswith(f"{shard.name} is damaged: the checksum of tensor model/")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_none(value: float, tmp_path: Path) -> None:
    variables = released()
    variables["model/h0/ln_1/g"][3] = value
    with pytest.raises(CheckpointError, match=r"h\.0\.ln_1\.weight has 1 values that are NaN"):
        convert(write(tmp_path / "tf", variables), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


# --- the vocabulary --------------------------------------------------------------------------


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_the_vocabulary_is_converted_and_ends_a_text(is_elsewhere: bool, tmp_path: Path) -> None:
    """A training run keeps its checkpoints apart from the vocabulary of where it began."""
    theirs = trained(["<|endoftext|>"], 300)
    rows = theirs.get_vocab_size() + 2
    path = write(tmp_path / "tf", {**released(), "model/wte": torch.randn(rows, 8)}, n_vocab=rows)
    folder = tmp_path / "vocabulary" if is_elsewhere else path
    folder.mkdir(exist_ok=True)
    theirs.save_model(str(folder))
    (folder / "vocab.json").rename(folder / "encoder.json")
    (folder / "merges.txt").rename(folder / "vocab.bpe")
    converted = convert(path, tmp_path / "ours", vocabulary=folder if is_elsewhere else None)
    tokenizer = Tokenizer.from_directory(converted.path)
    text = "the cat sat, naïve"
    assert tokenizer.encode(text) == theirs.encode(text).ids
    assert converted.config.eos_token_ids == (tokenizer.special_tokens["<|endoftext|>"],)


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        ('{"<|endoftext|>": 10}', (10,)),
        ('{"<|endoftext|>": 0}', (0,)),
        ('{"<|endoftext|>": 11}', ()),
        ('{"<|endoftext|>": -1}', ()),
        ('{"<|endoftext|>": true}', ()),
        ('{"<|endoftext|>": "10"}', ()),
        ("{}", ()),
        ("{", ()),
    ],
)
def test_the_end_of_text(encoder: str, expected: tuple[int, ...], copy: Path) -> None:
    (copy / "encoder.json").write_text(encoder)
    assert read_tf_gpt2(copy).config.eos_token_ids == expected


def test_the_end_of_text_of_a_vocabulary_that_is_named(copy: Path) -> None:
    (copy / "encoder.json").write_text('{"<|endoftext|>": 10}')
    named = Hints(vocab_size=11, eos_token_id=3)
    assert read_tf_gpt2(copy, named).config.eos_token_ids == (3,)
    assert read_tf_gpt2(copy, Hints(vocab_size=11)).config.eos_token_ids == ()


def test_a_vocabulary_that_is_unreadable_is_told_once(copy: Path, tmp_path: Path) -> None:
    (copy / "encoder.json").write_text("{")
    (copy / "vocab.bpe").write_text("")
    with pytest.raises(CheckpointError) as caught:
        convert(copy, tmp_path / "ours")
    assert str(caught.value).count("encoder.json is not readable") == 1


# --- which directories are these -------------------------------------------------------------


@pytest.mark.parametrize(
    "kept", ["hparams.json", "checkpoint", "model.ckpt.index", "model.ckpt.data-00000-of-00002"]
)
def test_a_part_is_known_by_what_is_left(kept: str, copy: Path) -> None:
    for file in copy.iterdir():
        if file.name != kept:
            file.unlink()
    assert is_tf_gpt2(copy) == (not kept.startswith("model.ckpt.data"))


def test_another_layout_is_none(copy: Path, tmp_path: Path) -> None:
    (copy / "config.json").write_text("{}")
    assert not is_tf_gpt2(copy)
    (tmp_path / "checkpoint").mkdir()  # where gpt-2-simple keeps its runs
    assert not is_tf_gpt2(tmp_path)
    assert not is_tf_gpt2(copy / "hparams.json")


def test_serving_says_what_to_do() -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(RELEASED)
    assert caught.value.problems == [
        f"{RELEASED}: this is OpenAI's TensorFlow layout, which `gpt2-server convert` reads"
    ]


def test_the_command_converts(tmp_path: Path) -> None:
    dest = tmp_path / "ours"
    done = CliRunner().invoke(main, ["convert", str(RELEASED), str(dest)])
    assert done.exit_code == 0, done.output
    assert open_checkpoint(dest).config == read_tf_gpt2(RELEASED).config
