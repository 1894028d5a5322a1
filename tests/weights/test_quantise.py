"""Quantised checkpoints: written, mapped back, measured, and refused where something is off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from model.config import GPTConfig
from model.decoder import parameter_shapes
from model.fidelity import kl_per_token
from model.quantised import Int4Matrix, Int8Matrix
from model.quantising import quantise_tensors
from server.cli import main
from weights.checkpoint import CheckpointError, open_checkpoint, save_checkpoint
from weights.convert import convert
from weights.export import export
from weights.integrity import CHECKSUMS, file_crc32c
from weights.quantise import matrix_errors, quantise
from weights.writing import Progress, write_safetensors

SIZES: dict[str, Any] = {"n_embd": 32, "n_inner": 64, "vocab_size": 50}
NAME = "h.1.mlp.c_proj.weight"
LAST = "from them: take the checkpoint that it was made of"

Writer = Callable[..., Path]


@pytest.fixture(params=["int8", "int4"])
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def quantised(hf_writer: Writer, tmp_path: Path, method: str) -> Path:
    return convert(hf_writer(**SIZES), tmp_path / "quantised", quantization=method).path


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_opened_is_what_quantising_gives(
    method: str, is_tied: bool, dtype: torch.dtype, hf_writer: Writer, tmp_path: Path
) -> None:
    source = hf_writer(**SIZES, tie_word_embeddings=is_tied, dtype=dtype)
    plain = open_checkpoint(source)
    expected, matrices = quantise_tensors(plain.config, plain.tensors, method)
    opened = convert(source, tmp_path / "quantised", quantization=method)
    if is_tied:
        del expected["wte.weight"]
    assert opened.quantization == method
    assert opened.config == plain.config
    assert opened.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert opened.tensors[name].dtype == tensor.dtype
        assert torch.equal(opened.tensors[name], tensor), name
    assert opened.matrices.keys() == matrices.keys()
    for name, matrix in matrices.items():
        found = opened.matrices[name]
        assert type(found) is type(matrix)
        assert (found.num_outputs, found.num_inputs) == (matrix.num_outputs, matrix.num_inputs)
        assert torch.equal(found.packed, matrix.packed), name
        assert torch.equal(found.scales, matrix.scales), name


def test_packed_tensors_begin_at_lines_of_the_cache(quantised: Path, method: str) -> None:
    """In the file, and so in memory; and every other number where its width asks for."""
    content = (quantised / "model.safetensors").read_bytes()
    header_len = int.from_bytes(content[:8], "little")
    assert (8 + header_len) % 64 == 0
    header = json.loads(content[8 : 8 + header_len])
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start = 8 + header_len + entry["data_offsets"][0]
        assert start % 64 == 0 or not name.endswith(".packed"), name
        assert start % {"F32": 4, "F16": 2, "U8": 1}[entry["dtype"]] == 0
    for name, matrix in open_checkpoint(quantised).matrices.items():
        assert matrix.packed.data_ptr() % 64 == 0, name


def test_the_configuration_says_how(quantised: Path, method: str) -> None:
    values = json.loads((quantised / "config.json").read_text())
    assert values["quantization"] == {"method": method, "layout": "interleaved-48", "version": 1}


def test_a_copy_is_the_same_and_keeps_its_record(quantised: Path, tmp_path: Path) -> None:
    copy = convert(quantised, tmp_path / "copy")
    original = open_checkpoint(quantised)
    assert copy.weights_hash == original.weights_hash
    assert copy.source["quality"] == original.source["quality"]
    again = convert(quantised, tmp_path / "again", quantization=original.quantization)
    assert again.weights_hash == original.weights_hash


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "int3"},
        {"layout": "interleaved-64"},
        {"version": 2},
        {"version": True},
        {"method": ["int8"]},
    ],
)
def test_another_kind_of_quantisation_is_refused_by_name(
    quantised: Path, changed: dict[str, Any]
) -> None:
    values = json.loads((quantised / "config.json").read_text())
    values["quantization"] |= changed
    rewrite(quantised, "config.json", json.dumps(values).encode())
    name, value = next(iter(changed.items()))
    supported = {"method": "int8 and int4", "layout": "interleaved-48", "version": "1"}[name]
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(quantised)
    found = f"quantization has {name} {value!r}, only {supported} can be opened"
    assert caught.value.problems == [f"{quantised}: config.json: {found}"]


def test_quantization_that_is_no_object_is_refused(quantised: Path) -> None:
    values = json.loads((quantised / "config.json").read_text()) | {"quantization": "int8"}
    rewrite(quantised, "config.json", json.dumps(values).encode())
    with pytest.raises(CheckpointError, match="quantization must be an object, not str"):
        open_checkpoint(quantised)


def test_every_wrong_tensor_is_named(quantised: Path, method: str, tmp_path: Path) -> None:
    """With checksums that fit: nothing but names, shapes and dtypes gives it away."""
    tensors = load_file(quantised / "model.safetensors")
    one, other = "h.0.attn.c_attn.weight", "h.0.attn.c_proj.weight"
    tensors[f"{one}.packed"], tensors[f"{other}.packed"] = (
        tensors[f"{other}.packed"],
        tensors[f"{one}.packed"],
    )
    tensors[f"{NAME}.scales"] = tensors[f"{NAME}.scales"].bfloat16()
    tensors["ln_f.bias"] = tensors["ln_f.bias"].byte()
    del tensors["lm_head.weight.packed"]
    tensors["wte.weight"] = torch.zeros(50, 32)
    write_safetensors(tmp_path / "changed", tensors, Progress(None, 0))
    rewrite(quantised, "model.safetensors", (tmp_path / "changed").read_bytes())
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(quantised)
    told = [problem.split("tensor ")[1] for problem in caught.value.problems]
    sizes = (1024, 3072) if method == "int8" else (512, 1536)
    wanted = "F32" if method == "int8" else "F16"
    assert sorted(told) == sorted(
        [
            "lm_head.weight.packed is missing",
            "wte.weight",
            f"{one}.packed has shape ({sizes[0]},), expected ({sizes[1]},)",
            f"{other}.packed has shape ({sizes[1]},), expected ({sizes[0]},)",
            f"{NAME}.scales is BF16, expected {wanted}",
            "ln_f.bias is U8, only float32, bfloat16, float16 are supported",
        ]
    )


def test_scales_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    config = GPTConfig(50, 12, 32, 1, 2, 64)
    tensors = {name: torch.randn(shape) for name, shape in parameter_shapes(config).items()}
    plain, matrices = quantise_tensors(config, tensors, "int8")
    del plain["wte.weight"]
    matrices["lm_head.weight"].scales[3] = torch.nan
    with pytest.raises(CheckpointError, match=r"lm_head.weight.scales has 1 values that are NaN"):
        save_checkpoint(
            tmp_path / "own", config, plain, None, {}, matrices=matrices, quantization="int8"
        )
    assert not (tmp_path / "own").exists()


def test_nothing_else_can_be_made_of_it(quantised: Path, method: str, tmp_path: Path) -> None:
    other = "int4" if method == "int8" else "int8"
    text = tmp_path / "text.txt"
    text.write_text("to train on\n" * 100)
    makes: list[Callable[[], object]] = [
        lambda: convert(quantised, tmp_path / "dest", "float32"),
        lambda: convert(quantised, tmp_path / "dest", quantization=other),
        lambda: export(quantised, tmp_path / "dest"),
    ]
    for make in makes:
        with pytest.raises(CheckpointError) as caught:
            make()
        assert len(caught.value.problems) == 1
        assert caught.value.problems[0].startswith(f"{quantised}: its weights are quantised")
        assert caught.value.problems[0].endswith(LAST)
        assert not (tmp_path / "dest").exists()
    started = ["pretrain", str(text), str(tmp_path / "dest"), "--num-steps", "1"]
    result = CliRunner().invoke(main, [*started, "--from", str(quantised)])
    assert result.exit_code == 2
    assert result.output.strip() == f"Error: {caught.value.problems[0]}"


def test_what_cannot_be_quantised_is_refused(hf_writer: Writer, tmp_path: Path) -> None:
    source = hf_writer(n_embd=48)
    with pytest.raises(CheckpointError) as caught:
        convert(source, tmp_path / "dest", quantization="int4")
    assert caught.value.problems == ["int4 needs num_channels to be a multiple of 32, got 48"]
    with pytest.raises(CheckpointError) as caught:
        convert(source, tmp_path / "dest", "float32", quantization="int3")
    assert caught.value.problems == [
        "either a dtype or a quantisation can be asked for, not both",
        "quantisation must be one of int8, int4, got 'int3'",
    ]
    assert not (tmp_path / "dest").exists()


def test_the_cost_is_recorded(quantised: Path, method: str) -> None:
    quality = open_checkpoint(quantised).source["quality"]
    assert quality["num_tokens"] == 8 * 12
    assert quality["log_loss"] > 0
    bounds = (0.003, 0.01) if method == "int8" else (0.04, 0.1)
    assert bounds[0] < quality["relative_error"]["median"] < bounds[1]
    assert quality["relative_error"]["median"] <= quality["relative_error"]["largest"] < 0.12
    assert quality["relative_error"]["largest_of"] in open_checkpoint(quantised).matrices


def test_four_bits_cost_more_than_eight() -> None:
    config = GPTConfig(200, 32, 64, 2, 2, 128, eos_token_ids=(7,))
    tensors = {name: torch.randn(shape) * 0.2 for name, shape in parameter_shapes(config).items()}
    for name in [name for name in tensors if "ln_" in name and name.endswith("weight")]:
        tensors[name] += 1
    rises = {
        method: quantise(config, tensors, method)[2].fidelity.rise for method in ("int8", "int4")
    }
    assert 0 < rises["int8"] < 0.2 * rises["int4"]


def test_the_error_is_that_of_the_function() -> None:
    """A channel moved between a norm and its matrix is no error; one that is off is."""
    config = GPTConfig(50, 12, 32, 1, 2, 64)
    tensors = {name: torch.randn(shape) for name, shape in parameter_shapes(config).items()}
    plain, matrices = quantise_tensors(config, tensors, "int8")
    assert all(error < 0.01 for error in matrix_errors(config, tensors, plain, matrices).values())
    plain["h.0.ln_2.weight"] = plain["h.0.ln_2.weight"] * 1.1
    errors = matrix_errors(config, tensors, plain, matrices)
    assert errors.pop("h.0.mlp.c_fc.weight") == pytest.approx(0.1, abs=0.01)
    assert all(error < 0.01 for error in errors.values())


def test_the_divergence_is_right_and_bears_impossible_tokens() -> None:
    one, other = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.25, 0.75, 0.0]]).log()
    expected = 0.5 * torch.tensor(2.0).log() + 0.5 * torch.tensor(2 / 3).log()
    assert kl_per_token(one, other) == pytest.approx(float(expected))
    assert kl_per_token(one, one) == 0


def test_by_command(hf_writer: Writer, tmp_path: Path, method: str) -> None:
    source, dest = hf_writer(**SIZES), tmp_path / "dest"
    result = CliRunner().invoke(main, ["convert", str(source), str(dest), "--quantize", method])
    assert result.exit_code == 0, result.output
    kinds = {type(matrix) for matrix in open_checkpoint(dest).matrices.values()}
    assert kinds == ({Int8Matrix} if method == "int8" else {Int8Matrix, Int4Matrix})
    last = result.output.strip().splitlines()[-1]
    assert last.startswith(f"{method}: log-loss ")
    assert "nats a token" in last
    assert "on 96 tokens of its own; error of a matrix" in last
    result = CliRunner().invoke(main, ["convert", str(dest), f"{dest}2", "--dtype", "bfloat16"])
    assert result.exit_code == 2
    assert LAST in result.output


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Change a file of ours, and the checksum with it."""
    (folder / name).write_bytes(content)
    source = json.loads((folder / "source.json").read_text())
    source[CHECKSUMS][name] = file_crc32c(folder / name)
    (folder / "source.json").write_text(json.dumps(source))
