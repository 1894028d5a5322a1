"""What a list of files says: what is needed, and what is against it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.small_hf import INDEX, WEIGHTS
from weights.formats.hf_files import PICKLES, SAFETENSORS
from weights.hub import listing
from weights.hub.listing import RepoFile

SHARD = "model-00001-of-00002.safetensors"


def files(*names: str, size: int = 10) -> dict[str, RepoFile]:
    return {name: RepoFile(name, size) for name in names}


def test_what_is_taken_is_what_the_reader_reads() -> None:
    assert SAFETENSORS.whole == listing.WHOLE_SAFETENSORS
    assert PICKLES.whole == listing.WHOLE_PICKLE
    for name in (SAFETENSORS.whole, SAFETENSORS.index, PICKLES.whole, PICKLES.index):
        assert listing.weights_entry(["config.json", name]) == name


@pytest.mark.parametrize(
    ("names", "entry"),
    [
        ((WEIGHTS, INDEX, "pytorch_model.bin"), WEIGHTS),
        ((INDEX, "pytorch_model.bin"), INDEX),
        (("pytorch_model.bin", "pytorch_model.bin.index.json"), "pytorch_model.bin"),
        (("tf_model.h5", "onnx/model.safetensors"), None),
    ],
)
def test_safetensors_are_preferred(names: tuple[str, ...], entry: str | None) -> None:
    assert listing.weights_entry(names) == entry


def test_every_problem_of_a_list_is_told() -> None:
    problems = listing.list_problems(files("../x", "tf_model.h5", "rust_model.ot", "a/b.txt"))
    assert problems == [
        "the list of files has '../x', which leads out of the repository",
        "config.json is missing",
        "there is neither model.safetensors nor pytorch_model.bin, whole or in shards, "
        "only tf_model.h5, rust_model.ot",
    ]


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "", "a\\..\\x", "a\0"])
def test_names_that_lead_out(name: str) -> None:
    assert len(listing.list_problems(files("config.json", WEIGHTS, name))) == 1
    assert not listing.list_problems(files("config.json", WEIGHTS, "a/b..c", "..a"))


def test_small_files_that_are_not_small() -> None:
    given = files("config.json", "tokenizer.json", size=2**27) | files(WEIGHTS, size=2**40)
    assert listing.list_problems(given) == [
        "config.json has 134,217,728 bytes, at most 67,108,864 are read",
        "tokenizer.json has 134,217,728 bytes, at most 67,108,864 are read",
    ]


def test_the_shards_of_an_index(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": SHARD, "b": SHARD}}))
    assert listing.weights(tmp_path, files(INDEX, SHARD)) == ([SHARD], [])


@pytest.mark.parametrize(
    ("weight_map", "problem"),
    [
        ({"a": SHARD}, f"{INDEX} names {SHARD}, which is not there"),
        ({"a": f"../{SHARD}"}, f"{INDEX} names '../{SHARD}', which is no shard"),
        ({"a": "config.json"}, f"{INDEX} names 'config.json', which is no shard"),
        ({"a": 3}, f"{INDEX} names 3, which is no shard"),
        ({"a": ["x"]}, f"{INDEX} has no weight_map"),
        ({}, f"{INDEX} names no shard"),
        ([SHARD], f"{INDEX} has no weight_map"),
    ],
)
def test_an_index_that_is_wrong(weight_map: object, problem: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert listing.weights(tmp_path, files(INDEX, "config.json")) == ([], [problem])


@pytest.mark.parametrize("content", ["", "[]", "{", "{}", "[" * 100_000])
def test_an_index_that_is_none(content: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(content)
    assert listing.weights(tmp_path, files(INDEX)) == ([], [f"{INDEX} has no weight_map"])
