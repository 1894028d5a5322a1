"""The directory of a task: written and opened, and everything that it can be refused for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.config import GPTConfig
from model.decoder import parameter_shapes
from model.lora import LoraConfig
from model.tasks import TaskConfig
from weights.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from weights.integrity import CHECKSUMS, file_crc32c
from weights.task import TrainedTask, is_task, open_task, save_task

TRUNK = GPTConfig(
    vocab_size=30, num_positions=12, num_channels=16, num_layers=2, num_heads=2, num_inner=64
)
SENTIMENT = TaskConfig("classification", max_len=12, labels=("negative", "positive"))
LORA = LoraConfig(2, 4.0, ("attn.c_attn", "mlp.c_proj"))

Edit = Callable[[Path], object]


def random_like(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def trunk(tmp_path: Path) -> Checkpoint:
    tensors = random_like(parameter_shapes(TRUNK))
    return save_checkpoint(tmp_path / "trunk", TRUNK, tensors, None, {"origin": "a test"})


def trained(trunk: Checkpoint, **changes: Any) -> TrainedTask:
    """A task with LoRA, unless something else is asked for."""
    values: dict[str, Any] = {
        "name": "sentiment",
        "config": SENTIMENT,
        "train": "lora",
        "tensors": {},
        "trunk_config": TRUNK,
        "trunk_hash": trunk.weights_hash,
        "lora": LORA,
    }
    task = TrainedTask(**{**values, **changes})
    return task if task.tensors else replace(task, tensors=tensors_of(task))


def tensors_of(task: TrainedTask) -> dict[str, torch.Tensor]:
    return random_like(task.description(task.trunk_hash).shapes(), seed=1)


def full(trunk: Checkpoint) -> TrainedTask:
    return trained(trunk, train="full", lora=None, trunk_tensors=trunk.tensors)


@pytest.fixture
def saved(tmp_path: Path, trunk: Checkpoint) -> Path:
    save_task(tmp_path / "task", trained(trunk), {"origin": "a test"})
    return tmp_path / "task"


def problems(path: Path, trunk: Checkpoint | None) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        open_task(path, trunk)
    first, *rest = caught.value.problems
    return [first.removeprefix(f"{path}: "), *rest]


def unsaved(task: TrainedTask, dest: Path) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        save_task(dest, task, {})
    assert not dest.exists()
    assert not list(dest.parent.glob(".*"))
    first, *rest = caught.value.problems
    return [first.removeprefix(f"{dest}: "), *rest]


# --- what is written comes back -----------------------------------------------------------------


@pytest.mark.parametrize("train", ["head", "lora", "full"])
def test_a_task_comes_back(tmp_path: Path, trunk: Checkpoint, train: str) -> None:
    if train == "full":
        task = full(trunk)
    else:
        task = trained(trunk, train=train, lora=LORA if train == "lora" else None)
    dest = tmp_path / "task"
    save_task(dest, task, {"origin": "a test"})
    assert is_task(dest)
    opened = open_task(dest, trunk)
    assert opened.description == task.description(trunk.weights_hash)
    found = opened.tensors()
    assert found.keys() == task.tensors.keys()
    assert all(torch.equal(found[name], task.tensors[name]) for name in found)
    assert opened.source["origin"] == "a test"
    assert opened.weights_hash == opened.source["model_sha256"][:16]
    names = {path.name for path in dest.iterdir()}
    assert names - {"trunk"} == {"task.json", "head.safetensors", "source.json"}
    assert ("trunk" in names) == (opened.own_trunk is not None) == (train == "full")


def test_a_task_with_its_own_trunk_takes_no_notice_of_another(
    tmp_path: Path, trunk: Checkpoint
) -> None:
    save_task(tmp_path / "task", full(trunk), {})
    own = open_task(tmp_path / "task", None).own_trunk
    assert own is not None
    assert all(torch.equal(own.tensors[name], t) for name, t in trunk.tensors.items())


def test_bfloat16_comes_back_and_a_head_computes_in_float32(
    tmp_path: Path, trunk: Checkpoint
) -> None:
    task = trained(trunk)
    narrow = {name: tensor.bfloat16() for name, tensor in task.tensors.items()}
    save_task(tmp_path / "task", replace(task, tensors=narrow), {})
    opened = open_task(tmp_path / "task", trunk)
    assert opened.adapters["h.0.attn.c_attn.lora_a"].dtype == torch.bfloat16
    assert opened.head.weight.dtype == torch.float32


# --- what cannot be written ---------------------------------------------------------------------


def test_tensors_that_do_not_go_with_the_task(tmp_path: Path, trunk: Checkpoint) -> None:
    tensors = tensors_of(trained(trunk))
    tensors["head.bias"] = torch.tensor([1.0, torch.nan])
    tensors["head.weight"] = torch.zeros(3, 16)
    del tensors["h.1.mlp.c_proj.lora_b"]
    assert unsaved(trained(trunk, tensors=tensors), tmp_path / "task") == [
        "tensor h.1.mlp.c_proj.lora_b is missing",
        "tensor head.weight has shape (3, 16), expected (2, 16)",
        "tensor head.bias has 1 values that are NaN or infinite",
    ]


def test_descriptions_that_contradict_themselves(tmp_path: Path, trunk: Checkpoint) -> None:
    values = {"tensors": {"a": torch.zeros(1)}, "name": "", "train": "full"}
    long = replace(SENTIMENT, max_len=13)
    assert unsaved(trained(trunk, **values, config=long), tmp_path / "task") == [
        "name must be a text that is not empty, got ''",
        "lora is there, but train is full",
        "max_len must be at most 12, got 13",
    ]
    lacking = replace(full(trunk), trunk_tensors=None)
    assert unsaved(lacking, tmp_path / "task") == ["the trunk's tensors are missing"]
    spare = trained(trunk, trunk_tensors=trunk.tensors)
    assert unsaved(spare, tmp_path / "task") == ["the trunk's tensors came, train is lora"]


def test_nothing_is_overwritten(saved: Path, trunk: Checkpoint) -> None:
    before = (saved / "source.json").read_bytes()
    with pytest.raises(CheckpointError, match="exists already"):
        save_task(saved, trained(trunk), {})
    assert (saved / "source.json").read_bytes() == before


# --- what cannot be opened ----------------------------------------------------------------------


def test_another_trunk_and_none(saved: Path, tmp_path: Path, trunk: Checkpoint) -> None:
    tensors = random_like(parameter_shapes(TRUNK), seed=7)
    other = save_checkpoint(tmp_path / "other", TRUNK, tensors, None, {})
    (found,) = problems(saved, other)
    assert found == (
        f"it was trained on a decoder with weights {trunk.weights_hash!r}, "
        f"{other.path} has {other.weights_hash!r}"
    )
    (found,) = problems(saved, None)
    assert found == f"it needs the decoder that it was trained on, weights {trunk.weights_hash!r}"


def rewrite(path: Path, change: Callable[[dict[str, Any]], object], name: str) -> None:
    """Change a JSON file, and its checksum with it: not damage, but another content."""
    file, source = path / name, path / "source.json"
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))
    if name != "source.json":
        recorded = json.loads(source.read_text())
        recorded[CHECKSUMS][name] = file_crc32c(file)
        source.write_text(json.dumps(recorded))


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda v: v.update(format="gpt2-server"), ["task.json: format 'gpt2-server' is not"]),
        (lambda v: v.update(format_version=2), ["task.json: format_version 2, only 1 is known"]),
        (lambda v: v.pop("lora"), ["task.json has no lora"]),
        (lambda v: v.update(trunk=[]), ["task.json: trunk must be an object"]),
        (lambda v: v["trunk"].update(weights_hash=3), ["the trunk's weights_hash must be a text"]),
        (lambda v: v.update(train="some"), ["train must be one of full, lora, head, got 'some'"]),
        (lambda v: v.update(lora=None), ["lora is missing"]),
        (
            lambda v: (v["task"].update(max_len=1), v["lora"].update(rank=0)),
            ["task.json: task: max_len must be at least 5, got 1", "task.json: lora: lora rank"],
        ),
        (lambda v: v.update(task=7), ["task.json: task: 'int' object"]),
        (lambda v: v["trunk"].update(config={}), ["task.json: trunk: missing field"]),
        (lambda v: v["trunk"]["config"].update(num_layers=10**9), ["task.json: trunk: num_layers"]),
        (lambda v: v["trunk"]["config"].update(num_inner=2**60), ["task.json: trunk: the config"]),
        (lambda v: v["lora"].update(rank=3), ["tensor h.0.attn.c_attn.lora_a has shape"]),
        (lambda v: v["trunk"]["config"].update(norm_epsilon=1e-6), ["task.json: the trunk's c"]),
    ],
)
def test_descriptions_that_are_wrong(
    saved: Path, trunk: Checkpoint, change: Callable[[dict[str, Any]], object], wanted: list[str]
) -> None:
    rewrite(saved, change, "task.json")
    found = problems(saved, trunk)
    starts = [text[: len(start)] for text, start in zip(found, wanted, strict=False)]
    assert starts == wanted, found


def test_a_tensor_of_a_dtype_that_torch_cannot_compute_in(saved: Path, trunk: Checkpoint) -> None:
    """Whether its values are numbers was asked of it before anybody had looked at its dtype."""
    file = saved / "head.safetensors"
    save_file({**load_file(file), "x": torch.zeros(2, dtype=torch.float8_e4m3fn)}, file)
    assert "unexpected tensor x" in problems(saved, trunk)


def flip(file: Path, offset: int) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)


def test_every_file_is_verified(saved: Path, trunk: Checkpoint) -> None:
    flip(saved / "head.safetensors", -1)
    (found,) = problems(saved, trunk)
    assert found.startswith("head.safetensors is damaged: its CRC-32C is")
    flip(saved / "head.safetensors", -1)
    text = (saved / "task.json").read_text()
    (saved / "task.json").write_text(text.replace("positive", "negatory"))
    (found,) = problems(saved, trunk)
    assert found.startswith("task.json is damaged")
    (saved / "task.json").write_text(text)
    open_task(saved, trunk)


def test_checksums_that_leave_the_weights_out(saved: Path, trunk: Checkpoint) -> None:
    rewrite(saved, lambda v: v[CHECKSUMS].pop("head.safetensors"), "source.json")
    (found,) = problems(saved, trunk)
    assert found == f"source.json: {CHECKSUMS} is not an object of file names"


def test_a_damaged_own_trunk(tmp_path: Path, trunk: Checkpoint) -> None:
    save_task(tmp_path / "task", full(trunk), {})
    flip(tmp_path / "task" / "trunk" / "model.safetensors", -1)
    (found,) = problems(tmp_path / "task", None)
    assert "model.safetensors is damaged" in found


def test_all_problems_at_once(saved: Path, trunk: Checkpoint) -> None:
    tensors = load_file(saved / "head.safetensors")
    tensors["extra"] = tensors.pop("head.bias")
    tensors["special.weight"][0, 0] = torch.inf
    save_file(tensors, saved / "head.safetensors")
    rewrite(saved, lambda v: (v.pop(CHECKSUMS), v.pop("model_sha256")), "source.json")
    assert problems(saved, None) == [
        f"it needs the decoder that it was trained on, weights {trunk.weights_hash!r}",
        "source.json has no model_sha256",
        f"source.json has no {CHECKSUMS}",
        "tensor head.bias is missing",
        "unexpected tensor extra",
        "tensor special.weight has 1 values that are NaN or infinite",
    ]


@pytest.mark.parametrize(
    ("edit", "wanted"),
    [
        (lambda p: (p / "head.safetensors").unlink(), "head.safetensors is missing"),
        (lambda p: (p / "source.json").unlink(), "source.json is missing"),
        (lambda p: (p / "task.json").unlink(), "task.json is missing"),
        (lambda p: (p / "task.json").write_text("{"), "task.json is not readable as JSON"),
    ],
)
def test_missing_files(saved: Path, trunk: Checkpoint, edit: Edit, wanted: str) -> None:
    edit(saved)
    assert problems(saved, trunk)[0].startswith(wanted)


def test_no_directory(tmp_path: Path) -> None:
    assert problems(tmp_path / "a", None) == [f"{tmp_path / 'a'} does not exist"]
    (tmp_path / "a").write_text("")
    assert problems(tmp_path / "a", None) == [f"{tmp_path / 'a'} is a file, not a task directory"]
    assert not is_task(tmp_path / "a")
