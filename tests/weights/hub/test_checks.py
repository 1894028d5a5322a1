"""The configuration, the sizes and the room, known before a download."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from model.config import PRESETS
from tests.support.small_hf import CONFIG
from weights.hub.checks import (
    Destination,
    Room,
    converted_room,
    read_config,
    room_problems,
    size_problems,
)

GPT2 = PRESETS["gpt2"]


def test_a_configuration_of_another_family(tmp_path: Path) -> None:
    values = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "n_head": 0}
    (tmp_path / "config.json").write_text(json.dumps(values))
    described = read_config(tmp_path)
    assert described.config is None
    assert [problem.split()[0] for problem in described.problems] == [
        *("model_type", "architecture", "num_heads")
    ]


def test_our_own_configuration(tmp_path: Path) -> None:
    values = {"format": "gpt2-server", "format_version": 1, "config": GPT2.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(values))
    described = read_config(tmp_path)
    assert (described.config, described.problems, described.is_own) == (GPT2, [], True)
    assert not described.is_quantised
    values["quantization"] = {"method": "int4"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read_config(tmp_path).is_quantised


@pytest.mark.parametrize("content", ["", "[]", json.dumps({"format": "other"})])
def test_no_configuration(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    described = read_config(tmp_path)
    assert described.config is None
    assert len(described.problems) == 1


def test_weights_that_are_too_small_to_be_all() -> None:
    assert size_problems(GPT2, 548_105_171) == []
    assert size_problems(GPT2, 1_000) == [
        "the weights have 1,000 bytes, but 124,439,808 parameters are at least 248,879,616"
    ]
    assert size_problems(GPT2, 88_662_024, is_quantised=True) == []
    assert len(size_problems(GPT2, 60_000_000, is_quantised=True)) == 1


def test_what_the_conversion_takes() -> None:
    dest = Path("some/dest")
    assert converted_room(GPT2, 7, Destination(dest)) == Room(Path("some"), 7)
    assert converted_room(None, 7, Destination(dest, "float32")).num_bytes == 7
    assert converted_room(GPT2, 7, Destination(dest, "float32")).num_bytes == 4 * 124_439_808
    assert converted_room(GPT2, 7, Destination(dest, "bfloat16")).num_bytes == 2 * 124_439_808


def test_one_disk_must_hold_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1_000))
    first, second = tmp_path / "not" / "there", tmp_path
    assert room_problems([Room(first, 600), Room(second, 400)]) == []
    assert room_problems([Room(first, 600), Room(second, 401)]) == [
        f"1,001 bytes are needed in {first} and {second}, but 1,000 are free"
    ]


def test_two_disks_are_looked_at_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Path("/proc")
    if not other.is_dir() or os.stat(other).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("no second file system")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1_000))
    assert room_problems([Room(tmp_path, 900), Room(other, 900)]) == []
    assert room_problems([Room(tmp_path, 1_001), Room(other, 1_002)]) == [
        f"1,001 bytes are needed in {tmp_path}, but 1,000 are free",
        "1,002 bytes are needed in /proc, but 1,000 are free",
    ]


def test_the_small_configuration_is_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert read_config(tmp_path).problems == []
