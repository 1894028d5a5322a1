"""Our directory format: opened verified, written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import GPTConfig
from model.decoder import parameter_shapes
from model.tokenizer import Tokenizer, VocabularyMissing
from weights.checkpoint import Checkpoint, CheckpointError, open_checkpoint, save_checkpoint

Tensors = dict[str, torch.Tensor]
EditTensors = Callable[[Path, Callable[[Tensors], None]], None]

CONFIG = GPTConfig(
    vocab_size=11,
    num_positions=7,
    num_channels=8,
    num_layers=2,
    num_heads=2,
    num_inner=12,
    activation="relu",
    is_attention_layer_scaled=True,
    eos_token_ids=(3, 4),
)


def random_tensors(config: GPTConfig = CONFIG) -> Tensors:
    return {name: torch.randn(shape) for name, shape in parameter_shapes(config).items()}


@pytest.fixture
def own_dir(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "own", CONFIG, random_tensors(), None, {}).path


def names_in(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def test_saved_and_opened_again(tmp_path: Path) -> None:
    tensors = random_tensors()
    told: list[tuple[int, int]] = []
    source = {"origin": "training", "licence": "MIT"}
    dest = tmp_path / "own"
    saved = save_checkpoint(dest, CONFIG, tensors, None, source, lambda *done: told.append(done))
    opened = open_checkpoint(dest)
    for checkpoint in (saved, opened):
        assert checkpoint.config == CONFIG
        assert checkpoint.tensors.keys() == tensors.keys()
        assert all(torch.equal(checkpoint.tensors[name], tensors[name]) for name in tensors)
    assert opened.num_parameters == sum(tensor.numel() for tensor in tensors.values())
    assert opened.source["origin"] == "training"
    assert opened.weights_hash == saved.weights_hash == opened.source["model_sha256"][:16]
    assert names_in(dest) == {"config.json", "model.safetensors", "source.json"}
    assert names_in(tmp_path) == {"own"}
    total = 3 * 4 * opened.num_parameters
    assert told == sorted(told)
    assert told[-1] == (total, total)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_and_special_values_come_back_bit_for_bit(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in random_tensors().items()}
    tensors["ln_f.bias"][:2] = torch.tensor([-0.0, torch.finfo(dtype).smallest_normal / 4])
    opened = save_checkpoint(tmp_path / "own", CONFIG, tensors, None, {})
    for name, tensor in tensors.items():
        stored = opened.tensors[name]
        assert stored.dtype == dtype
        assert torch.equal(stored.view(torch.uint8), tensor.view(torch.uint8))


def test_parameters_in_training_and_transposed_can_be_saved(tmp_path: Path) -> None:
    tensors = random_tensors()
    tensors["wpe.weight"] = torch.randn(8, 7).t().requires_grad_()
    opened = save_checkpoint(tmp_path / "own", CONFIG, tensors, None, {})
    assert torch.equal(opened.tensors["wpe.weight"], tensors["wpe.weight"])


def test_the_hash_follows_the_weights(tmp_path: Path) -> None:
    tensors = random_tensors()
    hashes = set()
    for turn in range(2):
        for copy in range(2):
            dest = tmp_path / f"{turn}{copy}"
            hashes.add(save_checkpoint(dest, CONFIG, tensors, None, {}).weights_hash)
        tensors["ln_f.bias"][0] += 1
    assert len(hashes) == 2


def test_only_vocabulary_files_are_copied(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    for name in ("tokenizer.json", "vocab.bpe", "notes.txt", "run.py"):
        (files / name).write_text("{}")
    save_checkpoint(tmp_path / "a", CONFIG, random_tensors(), files, {})
    save_checkpoint(tmp_path / "b", CONFIG, random_tensors(), [files / "vocab.bpe"], {})
    assert names_in(tmp_path / "a") >= {"tokenizer.json", "vocab.bpe"}
    assert not names_in(tmp_path / "a") & {"notes.txt", "run.py"}
    assert "tokenizer.json" not in names_in(tmp_path / "b")
    with pytest.raises(CheckpointError, match=r"run\.py is not a vocabulary file"):
        save_checkpoint(tmp_path / "c", CONFIG, random_tensors(), [files / "run.py"], {})


# --- what cannot be written ------------------------------------------------------------------


def test_every_problem_is_told_before_a_byte_is_written(tmp_path: Path) -> None:
    tensors = random_tensors()
    del tensors["ln_f.weight"]
    tensors["other"] = torch.ones(1)
    tensors["wte.weight"] = torch.ones(11, 9)
    tensors["wpe.weight"][0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    tensors["ln_f.bias"] = tensors["ln_f.bias"].double()
    with pytest.raises(CheckpointError) as caught:
        save_checkpoint(tmp_path / "own", CONFIG, tensors, None, {})
    expected = (
        "ln_f.weight is missing",
        "unexpected tensor other",
        "wte.weight has shape (11, 9), expected (11, 8)",
        "wpe.weight has 3 values that are NaN or infinite",
        "ln_f.bias is torch.float64",
    )
    assert len(caught.value.problems) == len(expected)
    assert all(part in str(caught.value) for part in expected)
    assert names_in(tmp_path) == set()


@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
def test_an_existing_dest_is_left_alone(kind: str, tmp_path: Path) -> None:
    dest = tmp_path / "own"
    if kind == "directory":
        dest.mkdir()
    elif kind == "file":
        dest.write_text("mine")
    else:
        dest.symlink_to(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="exists already"):
        save_checkpoint(dest, CONFIG, random_tensors(), None, {})
    assert names_in(tmp_path) == {"own"}


def test_a_missing_parent(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file or directory"):
        save_checkpoint(tmp_path / "no" / "own", CONFIG, random_tensors(), None, {})


@pytest.mark.parametrize("at_sync", range(4))
def test_a_full_disk_leaves_nothing(
    at_sync: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > at_sync:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError) as caught:
        save_checkpoint(tmp_path / "own", CONFIG, random_tensors(), None, {})
    assert str(caught.value) == f"{tmp_path / 'own'}: No space left on device"
    assert names_in(tmp_path) == set()


def test_a_disk_that_really_is_full_leaves_nothing(tmp_path: Path) -> None:
    """The limit on file sizes stands in for the disk: the write itself fails, halfway."""
    code = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from model.config import GPTConfig\n"
        "from model.decoder import parameter_shapes\n"
        "from weights.checkpoint import CheckpointError, save_checkpoint\n"
        "config = GPTConfig(num_channels=64, num_heads=2, num_layers=1, vocab_size=999)\n"
        "tensors = {n: torch.ones(s) for n, s in parameter_shapes(config).items()}\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    save_checkpoint(Path(sys.argv[1]), config, tensors, None, {})\n"
        "except CheckpointError as error:\n"
        "    print(error)\n"
    )
    dest = tmp_path / "own"
    run = subprocess.run(
        [sys.executable, "-c", code, str(dest)], capture_output=True, text=True, check=True
    )
    assert run.stdout == f"{dest}: File too large\n"
    assert names_in(tmp_path) == set()


def test_a_disk_that_lies_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit flips between writing and reading back."""
    sync = os.fsync

    def flip(descriptor: int) -> None:
        sync(descriptor)
        with open(f"/proc/self/fd/{descriptor}", "r+b") as file:
            if file.name and file.seek(0, os.SEEK_END) > 2_000:
                file.seek(-1, os.SEEK_END)
                last = file.read(1)[0]
                file.seek(-1, os.SEEK_END)
                file.write(bytes([last ^ 1]))
        monkeypatch.setattr(os, "fsync", sync)

    monkeypatch.setattr(os, "fsync", flip)
    with pytest.raises(CheckpointError, match="came back different"):
        save_checkpoint(tmp_path / "own", CONFIG, random_tensors(), None, {})
    assert names_in(tmp_path) == set()


# --- what cannot be opened -------------------------------------------------------------------


def test_no_directory_and_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file, not a checkpoint directory"):
        open_checkpoint(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        open_checkpoint(tmp_path / "empty")


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "weights.pth", "a.pkl", "b.ckpt"]
)
@pytest.mark.parametrize("with_config", [True, False])
def test_a_pickle_is_refused_by_name_and_never_opened(
    name: str, with_config: bool, hf_dir: Path
) -> None:
    sprung = hf_dir / "sprung"
    (hf_dir / name).write_bytes(pickle.dumps(Trap(sprung)))
    (hf_dir / "model.safetensors").unlink()
    if not with_config:
        (hf_dir / "config.json").unlink()
    with pytest.raises(CheckpointError, match=f"{name} is a pickle.*safetensors"):
        open_checkpoint(hf_dir)
    assert not sprung.exists()


def test_a_pickle_beside_safetensors_is_not_looked_at(hf_dir: Path) -> None:
    (hf_dir / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(hf_dir / "sprung")))
    assert open_checkpoint(hf_dir).config.num_layers == 2
    assert not (hf_dir / "sprung").exists()


@pytest.mark.parametrize("kept", [0, 5, 8, 100, -1_000, -1])
@pytest.mark.parametrize("kind", ["own", "hf"])
def test_a_truncated_file(kind: str, kept: int, own_dir: Path, hf_dir: Path) -> None:
    path = own_dir if kind == "own" else hf_dir
    file = path / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:kept])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated") as caught:
        open_checkpoint(path)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("at", [0, 7, 9, 30])
def test_a_flipped_header(at: int, own_dir: Path) -> None:
    file = own_dir / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[at] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_checkpoint(own_dir)


def test_every_spoilt_tensor_is_in_one_message(own_dir: Path, edit_tensors: EditTensors) -> None:
    def spoil(tensors: Tensors) -> None:
        del tensors["h.0.ln_1.weight"], tensors["h.1.mlp.c_fc.bias"]
        tensors["lm_head.weight"] = torch.ones(11, 8)
        tensors["h.1.attn.c_attn.weight"] = torch.ones(8, 24)
        tensors["ln_f.bias"] = torch.ones(8, dtype=torch.int64)

    edit_tensors(own_dir, spoil)
    (own_dir / "source.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(own_dir)
    expected = (
        "source.json is missing",
        "h.0.ln_1.weight is missing",
        "h.1.mlp.c_fc.bias is missing",
        "unexpected tensor lm_head.weight",
        "h.1.attn.c_attn.weight has shape (8, 24), expected (24, 8)",
        "ln_f.bias is I64",
    )
    assert len(caught.value.problems) == len(expected)
    assert all(part in str(caught.value) for part in expected)
    assert str(caught.value).count(str(own_dir)) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "gguf"}, "format 'gguf' is not known"),
        ({"format_version": 2}, "format_version 2, only 1 is known"),
        ({"config": None}, "has no config"),
        ({"config": {**CONFIG.to_dict(), "num_heads": 3}}, "multiple of num_heads"),
        ({"config": {**CONFIG.to_dict(), "new": 3}}, "unknown field 'new'"),
        ({"config": {**CONFIG.to_dict(), "eos_token_ids": 3}}, r"config\.json"),
        ({"config": {**CONFIG.to_dict(), "num_layers": 10**9}}, "1,000,000,000 layers"),
    ],
)
def test_a_configuration_of_ours_that_is_wrong(
    fields: dict[str, Any], message: str, own_dir: Path, edit_config: Callable[..., None]
) -> None:
    edit_config(own_dir, **fields)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(own_dir)


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b"{" * 99_999, b"nul"])
def test_a_configuration_that_is_no_object(content: bytes, own_dir: Path) -> None:
    (own_dir / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(own_dir)


# --- opening is cheap, and real directories --------------------------------------------------


def test_opening_ours_takes_no_sha256_and_imports_no_compiler(own_dir: Path) -> None:
    """Each takes a second: the one for a gigabyte, the other with some calls on the meta device."""
    code = (
        "import hashlib, sys\n"
        "from pathlib import Path\n"
        "from weights.checkpoint import open_checkpoint\n"
        "hashlib.file_digest = hashlib.sha256 = None\n"
        "open_checkpoint(Path(sys.argv[1]))\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(own_dir)], check=True)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_none_are_not_served(
    value: float, hf_dir: Path, edit_tensors: EditTensors
) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["transformer.h.1.ln_2.bias"][3] = value

    edit_tensors(hf_dir, spoil)
    with pytest.raises(CheckpointError, match=r"h\.1\.ln_2\.bias has 1 values that are NaN or inf"):
        open_checkpoint(hf_dir)


def test_tensors_are_memory_mapped(own_dir: Path) -> None:
    before = open_checkpoint(own_dir)
    assert "model.safetensors" in Path("/proc/self/maps").read_text()
    assert isinstance(before, Checkpoint)


def test_the_trained_sorter(shared_data: Path, tmp_path: Path) -> None:
    """It has no vocabulary and no end: it is served by ids."""
    path = shared_data / "trained" / "gpt-nano-sort"
    checkpoint = open_checkpoint(path)
    assert checkpoint.config.eos_token_ids == ()
    assert not checkpoint.config.is_head_tied
    assert checkpoint.config.num_positions == 11
    with pytest.raises(VocabularyMissing):
        Tokenizer.from_directory(path)
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    assert open_checkpoint(copy).weights_hash == checkpoint.weights_hash
    assert json.loads((path / "config.json").read_text())["n_embd"] == 48
