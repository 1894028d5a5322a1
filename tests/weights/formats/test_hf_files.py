"""Which files of a Hugging Face directory are read: by whom, and what an index may say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.trap import Trap
from weights.checkpoint import CheckpointError, open_checkpoint, open_source
from weights.convert import convert

Tensors = dict[str, torch.Tensor]
Writer = Callable[..., Path]

INDEX = "pytorch_model.bin.index.json"


def as_pickles(path: Path, *, as_zip: bool = True) -> Path:
    """The same directory with every safetensors file as torch.save writes it, and its index."""
    for file in sorted(path.glob("*.safetensors")):
        name = f"pytorch_{file.stem}.bin"
        torch.save(load_file(file), path / name, _use_new_zipfile_serialization=as_zip)
        file.unlink()
    index = path / "model.safetensors.index.json"
    if index.exists():
        text = index.read_text().replace(".safetensors", ".bin").replace("model-", "pytorch_model-")
        (path / INDEX).write_text(text)
        index.unlink()
    return path


def edit_pickle(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = torch.load(path)
    change(values)
    torch.save(values, path)


def is_same(some: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]) -> bool:
    return some.keys() == others.keys() and all(
        some[name].dtype == others[name].dtype and torch.equal(some[name], others[name])
        for name in some
    )


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "5KB"}, {"dtype": torch.bfloat16}])
def test_pickles_equal_safetensors(
    options: dict[str, Any], as_zip: bool, hf_writer: Writer, tmp_path: Path
) -> None:
    path = hf_writer(**options)
    before = convert(path, tmp_path / "before")
    after = convert(as_pickles(path, as_zip=as_zip), tmp_path / "after")
    assert after.config == before.config
    assert is_same(after.tensors, before.tensors)
    assert after.weights_hash == before.weights_hash
    assert after.source["format"] == "hf_gpt2"
    assert {name for name in after.source["sha256"] if name.endswith(".bin")} == {
        file.name for file in path.glob("*.bin")
    }


def test_an_untied_head_and_old_buffers(hf_writer: Writer) -> None:
    path = hf_writer(tie_word_embeddings=False)
    before = open_checkpoint(path)

    def age(values: dict[str, Any]) -> None:
        for name in list(values):
            values[name.removeprefix("transformer.")] = values.pop(name)
        values["h.0.attn.bias"] = torch.ones(1, 1, 12, 12, dtype=torch.uint8)
        values["h.1.attn.masked_bias"] = torch.tensor(-1e4)

    edit_pickle(as_pickles(path) / "pytorch_model.bin", age)
    assert is_same(open_source(path).tensors, before.tensors)


def test_safetensors_win(hf_dir: Path) -> None:
    before = open_checkpoint(hf_dir)
    (hf_dir / "pytorch_model.bin").write_bytes(b"not even opened")
    assert is_same(open_source(hf_dir).tensors, before.tensors)


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "5KB"}])
def test_serving_refuses_pickles_and_says_what_to_do(
    options: dict[str, Any], hf_writer: Writer
) -> None:
    path = as_pickles(hf_writer(**options))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert caught.value.problems == [f"{path}: model.safetensors is missing"] + [
        f"{file.name} is a pickle, which can run code and is never served: "
        f"gpt2-server convert makes safetensors of it"
        for file in sorted(path.glob("*.bin"))
    ]


def test_what_convert_does_not_read_either(hf_dir: Path) -> None:
    (hf_dir / "model.safetensors").rename(hf_dir / "other.bin")
    for open_it in (open_checkpoint, open_source):
        with pytest.raises(CheckpointError, match=r"other\.bin is a pickle.* save the model as"):
            open_it(hf_dir)


def test_a_trap_in_a_shard_does_not_spring(hf_writer: Writer, tmp_path: Path) -> None:
    path = as_pickles(hf_writer(max_shard_size="5KB"))
    shard = max(path.glob("*.bin"))
    edit_pickle(shard, lambda values: values.update(trap=Trap(tmp_path / "canary")))
    with pytest.raises(
        CheckpointError, match=rf"{shard.name} is a pickle that names posix\.system"
    ):
        convert(path, tmp_path / "ours")
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "ours").exists()


def test_every_problem_is_in_one_message(hf_dir: Path) -> None:
    def spoil(values: dict[str, Any]) -> None:
        del values["transformer.h.0.ln_1.weight"]
        values["transformer.surplus"] = torch.ones(2)
        values["score.weight"] = torch.ones(2, 16)
        values["transformer.h.0.mlp.c_fc.weight"] = torch.ones(64, 16)
        values["transformer.ln_f.bias"] = torch.ones(16, dtype=torch.float64)
        values["transformer.ln_f.weight"] = torch.ones(16, dtype=torch.int64)

    edit_pickle(as_pickles(hf_dir) / "pytorch_model.bin", spoil)
    with pytest.raises(CheckpointError) as caught:
        open_source(hf_dir)
    expected = (
        "h.0.ln_1.weight is missing",
        "unexpected tensor surplus",
        "score.weight is a task head",
        "h.0.mlp.c_fc.weight has shape (64, 16), expected (16, 64)",
        "ln_f.bias is torch.float64, only float32, bfloat16, float16 are supported",
        "ln_f.weight is torch.int64",
    )
    assert len(caught.value.problems) == len(expected)
    assert all(part in str(caught.value) for part in expected)


def test_what_is_no_tensor_is_named_and_not_called_missing(hf_dir: Path) -> None:
    def spoil(values: dict[str, Any]) -> None:
        values["transformer.ln_f.bias"] = torch.ones(16).to_sparse()
        values["epoch"] = 3

    edit_pickle(as_pickles(hf_dir) / "pytorch_model.bin", spoil)
    with pytest.raises(CheckpointError) as caught:
        open_source(hf_dir)
    first, second = caught.value.problems
    assert "transformer.ln_f.bias is no plain dense tensor but Tensor, torch.sparse_coo" in first
    assert second == "pytorch_model.bin: epoch is no tensor but int"


# --- an index of pickles ---------------------------------------------------------------------


@pytest.fixture
def sharded(hf_writer: Writer) -> Path:
    return as_pickles(hf_writer(max_shard_size="5KB"))


def edit_index(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((path / INDEX).read_text())
    change(index["weight_map"])
    (path / INDEX).write_text(json.dumps(index))


def test_shards_and_index_belong_together(sharded: Path) -> None:
    shards = sorted(file.name for file in sharded.glob("*.bin"))

    def swap(weight_map: dict[str, str]) -> None:
        weight_map["transformer.wte.weight"] = shards[-1]
        weight_map["transformer.nowhere"] = shards[0]
        del weight_map["transformer.ln_f.bias"]

    edit_index(sharded, swap)
    with pytest.raises(CheckpointError) as caught:
        open_source(sharded)
    for part in ("wte.weight is not in", "nowhere is not in", "ln_f.bias of", INDEX):
        assert part in str(caught.value)
    (sharded / shards[0]).rename(sharded / "pytorch_model-00099-of-00099.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model-00099-of-00099\.bin is not named"):
        open_source(sharded)


def test_a_missing_shard_and_a_missing_index(sharded: Path) -> None:
    shard = min(sharded.glob("*.bin"))
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name} is missing"):
        open_source(sharded)
    shard.write_bytes(content)
    (sharded / INDEX).unlink()
    with pytest.raises(CheckpointError, match=f"{INDEX} is missing"):
        open_source(sharded)


@pytest.mark.parametrize(
    "name", ["../secret.bin", "/etc/passwd", "model.safetensors", "a/b.bin", "..", 5, None, ["a"]]
)
def test_an_index_cannot_lead_out_of_the_directory(name: object, sharded: Path) -> None:
    torch.save({"transformer.wte.weight": torch.ones(30, 16)}, sharded.parent / "secret.bin")
    edit_index(sharded, lambda weight_map: weight_map.update({"transformer.wte.weight": name}))
    with pytest.raises(CheckpointError, match="which is no shard"):
        open_source(sharded)
