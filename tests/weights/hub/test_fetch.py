"""What is downloaded, what is not, and what is refused before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from model.config import GPTConfig
from tests.support.fake_hub import FakeHub
from tests.support.small_hf import CONFIG, INDEX, WEIGHTS, sharded_files, small_files
from weights.checkpoint import open_checkpoint
from weights.hub.checks import Destination
from weights.hub.errors import HubError
from weights.hub.fetch import fetch
from weights.hub.find import Found, find
from weights.hub.names import HubName
from weights.hub.transfer import Hub

Bring = Callable[[str], Path]

NAME = HubName("owner/name")
NOT_NEEDED = dict.fromkeys(
    (
        *("README.md", ".gitattributes", "tf_model.h5", "flax_model.msgpack", "rust_model.ot"),
        *("pytorch_model.bin", "onnx/model.onnx", "64.tflite", "training_args.bin", "source.json"),
        *("modeling_custom.py", "sub/config.json"),
    ),
    b"not needed",
)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def problems(bring: Bring, text: str = NAME.repo) -> list[str]:
    with pytest.raises(HubError) as caught:
        bring(text)
    return caught.value.problems


def test_only_what_is_needed_is_asked_for(bring: Bring, server: FakeHub, said: list[str]) -> None:
    commit = server.add(NAME.repo, {**small_files(), **NOT_NEEDED, "generation_config.json": b"{}"})
    snapshot = bring(NAME.repo)
    needed = {"config.json", "generation_config.json", "tokenizer.json", WEIGHTS}
    assert names(snapshot) == needed
    assert sorted(server.bodies()) == sorted(needed)
    assert open_checkpoint(snapshot).config.num_layers == CONFIG["n_layer"]
    assert said == [f"downloading 0.1 MB of owner/name@{commit}"]


def test_a_second_time_downloads_nothing(bring: Bring, server: FakeHub, said: list[str]) -> None:
    server.add(NAME.repo, small_files())
    first = bring(NAME.repo)
    server.asked.clear()
    assert bring(NAME.repo) == first
    assert [asked.path for asked in server.asked] == ["/api/models/owner/name/revision/main"]
    assert len(said) == 1


def test_a_new_commit_brings_what_has_changed(bring: Bring, server: FakeHub) -> None:
    server.add(NAME.repo, small_files())
    first = bring(NAME.repo)
    server.asked.clear()
    server.add(NAME.repo, {**small_files(1), "tokenizer.json": small_files()["tokenizer.json"]})
    second = bring(NAME.repo)
    assert second != first
    assert server.bodies() == [WEIGHTS]
    assert (second / WEIGHTS).read_bytes() == small_files(1)[WEIGHTS]
    assert (first / WEIGHTS).read_bytes() == small_files()[WEIGHTS]


def test_a_repository_that_moved(bring: Bring, hub: Hub, server: FakeHub) -> None:
    """As ``gpt2``, which is openai-community/gpt2 by now. It is kept by the name that was given."""
    server.add("openai-community/gpt2", small_files())
    server.moved["gpt2"] = "openai-community/gpt2"
    snapshot = bring("gpt2")
    assert names(snapshot) == small_files().keys()
    assert snapshot.is_relative_to(hub.cache / "models--gpt2")


def test_shards(bring: Bring, server: FakeHub) -> None:
    extra = {"model-00009-of-00009.safetensors": b"of another"}
    server.add(NAME.repo, sharded_files() | extra | NOT_NEEDED)
    snapshot = bring(NAME.repo)
    assert names(snapshot) == sharded_files().keys()
    assert open_checkpoint(snapshot).config.num_layers == CONFIG["n_layer"]


def test_pickles_only_where_there_is_nothing_else(bring: Bring, server: FakeHub) -> None:
    files = small_files()
    pickle = files.pop(WEIGHTS)
    server.add(NAME.repo, {**files, "pytorch_model.bin": pickle, "tf_model.h5": b"no"})
    assert names(bring(NAME.repo)) == {*files, "pytorch_model.bin"}


def test_our_own_format(bring: Bring, server: FakeHub) -> None:
    config = GPTConfig(320, 24, 16, 2, 2, 64, eos_token_ids=(0,)).to_dict()
    own = {"format": "gpt2-server", "format_version": 1, "config": config}
    files = {**small_files(), "config.json": json.dumps(own).encode(), "source.json": b"{}"}
    server.add(NAME.repo, files | {"README.md": b""})
    assert names(bring(NAME.repo)) == files.keys()


def test_everything_wrong_is_told_before_a_large_file_is_asked_for(
    bring: Bring, server: FakeHub
) -> None:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    server.add(NAME.repo, {"config.json": json.dumps(config).encode(), "tf_model.h5": b"weights"})
    assert problems(bring) == [
        "owner/name: there is neither model.safetensors nor pytorch_model.bin, whole or in shards,"
        " only tf_model.h5",
        "owner/name: model_type 'llama' is not supported, only gpt2 and openai-gpt are",
        "owner/name: architecture LlamaForCausalLM is not supported, "
        "only GPT2LMHeadModel and GPT2Model are",
    ]
    assert server.bodies() == ["config.json"]


def test_another_architecture_with_weights(bring: Bring, server: FakeHub) -> None:
    server.add(NAME.repo, small_files(model_type="llama"))
    assert problems(bring) == [
        "owner/name: model_type 'llama' is not supported, only gpt2 and openai-gpt are"
    ]
    assert server.bodies() == ["config.json"]


def test_no_configuration(bring: Bring, server: FakeHub) -> None:
    server.add(NAME.repo, {WEIGHTS: small_files()[WEIGHTS]})
    assert problems(bring) == ["owner/name: config.json is missing"]
    assert server.bodies() == []


def test_a_list_of_files_that_leads_out(bring: Bring, server: FakeHub) -> None:
    server.add(NAME.repo, small_files())
    server.repos[NAME.repo].listed = {"../x": {"rfilename": "../x", "size": 1}}
    assert problems(bring) == [
        "owner/name: the list of files has '../x', which leads out of the repository"
    ]
    assert server.bodies() == ["config.json"]


def test_an_index_that_leads_out(bring: Bring, server: FakeHub) -> None:
    index = json.dumps({"weight_map": {"wte.weight": "../../model.safetensors"}}).encode()
    server.add(NAME.repo, {**sharded_files(), INDEX: index})
    (told,) = problems(bring)
    assert "'../../model.safetensors', which is no shard" in told
    assert sorted(server.bodies()) == ["config.json", INDEX]


def test_a_missing_shard(bring: Bring, server: FakeHub) -> None:
    files = sharded_files()
    del files["model-00002-of-00002.safetensors"]
    server.add(NAME.repo, files)
    (told,) = problems(bring)
    assert told.endswith("names model-00002-of-00002.safetensors, which is not there")


def test_weights_too_small_for_the_configuration(bring: Bring, server: FakeHub) -> None:
    server.add(NAME.repo, small_files(n_layer=200))
    (told,) = problems(bring)
    assert "parameters are at least" in told
    assert server.bodies() == ["config.json"]


@pytest.mark.parametrize("free", [2_000, 100_000])
def test_no_room(
    free: int,
    bring: Bring,
    server: FakeHub,
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = small_files()
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))
    server.add(NAME.repo, files)
    needed = 2 * len(files[WEIGHTS]) + len(files["tokenizer.json"])
    assert problems(bring) == [
        f"owner/name: {needed:,} bytes are needed in {hub.folder(NAME)} and "
        f"{tmp_path / 'converted'}, but {free:,} are free"
    ]
    assert server.bodies() == ["config.json"]


def test_offline_from_the_cache(bring: Bring, hub: Hub, server: FakeHub, tmp_path: Path) -> None:
    server.add(NAME.repo, sharded_files())
    snapshot = bring(NAME.repo)
    server.asked.clear()
    assert offline(hub, tmp_path) == snapshot
    assert server.asked == []


def offline(hub: Hub, tmp_path: Path) -> Path:
    dest = Destination(tmp_path / "dest")
    found = find(replace(hub, is_offline=True), NAME, lambda _line: None)
    return fetch(hub, found, dest, lambda _line: None)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "model-00001-of-00002.safetensors"])
def test_offline_and_not_whole(
    name: str, bring: Bring, hub: Hub, server: FakeHub, tmp_path: Path
) -> None:
    files = sharded_files() if name not in small_files() else small_files()
    commit = server.add(NAME.repo, files)
    (bring(NAME.repo) / name).unlink()
    with pytest.raises(HubError, match=f"owner/name@{commit} is not whole in the cache"):
        offline(hub, tmp_path)


def test_offline_and_spoiled(bring: Bring, hub: Hub, server: FakeHub, tmp_path: Path) -> None:
    """In the cache a large file is named by its hash, so that it can be compared there too."""
    server.add(NAME.repo, small_files())
    weights = bring(NAME.repo) / WEIGHTS
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(HubError, match=f"{WEIGHTS} has the sha256"):
        offline(hub, tmp_path)
    assert not weights.exists()
    assert bring(NAME.repo) / WEIGHTS == weights
    assert weights.read_bytes() == content


def test_a_commit_never_seen_offline(hub: Hub, tmp_path: Path) -> None:
    found = Found(HubName(NAME.repo, "0" * 40), "0" * 40, None)
    with pytest.raises(HubError, match="is not whole in the cache"):
        fetch(hub, found, Destination(tmp_path / "dest"), print)
