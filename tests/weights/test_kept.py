"""Converted once and kept: by repository and commit, also by two at the same time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from huggingface_hub import close_session, constants
from safetensors.torch import load, save

import weights.convert as conversion
from model.tokenizer import Tokenizer
from tests.support.fake_hub import FakeHub, fake_hub
from tests.support.small_hf import WEIGHTS, small_files
from weights.checkpoint import open_checkpoint
from weights.directory import new_directory
from weights.hub.errors import HubError
from weights.hub.names import HubName
from weights.hub.transfer import Hub
from weights.kept import keep, kept_root

NAME = HubName("owner/some-gpt2")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that the environment of this process names."""
    with fake_hub() as server:
        hub = Hub(server.url, tmp_path / "cache")
        monkeypatch.setattr(Hub, "from_environment", lambda: hub)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        yield server
    close_session()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return kept_root({"XDG_CACHE_HOME": str(tmp_path / "xdg")})


@contextmanager
def no_bar(_description: str) -> Iterator[Callable[[int, int], None]]:
    yield lambda _done, _total: None


def kept(root: Path, name: HubName = NAME) -> Path:
    return keep(name, root, lambda _line: None, no_bar)


def test_where_they_are_kept(tmp_path: Path) -> None:
    assert kept_root({"XDG_CACHE_HOME": "/some"}) == Path("/some/gpt2-server/converted")
    home = Path.home() / ".cache" / "gpt2-server" / "converted"
    assert kept_root({}) == kept_root({"XDG_CACHE_HOME": "relative"}) == home


def test_a_name_becomes_a_checkpoint_of_ours(server: FakeHub, root: Path) -> None:
    commit = server.add(NAME.repo, small_files())
    path = kept(root)
    assert path == root / "owner--some-gpt2" / commit / "some-gpt2"
    checkpoint = open_checkpoint(path)
    assert checkpoint.source["origin"] == f"owner/some-gpt2@{commit}"
    assert checkpoint.source["format"] == "hf_gpt2"
    theirs = load(small_files()[WEIGHTS])
    assert torch.equal(checkpoint.tensors["wte.weight"], theirs["wte.weight"])
    name = "h.1.attn.c_attn.weight"
    assert torch.equal(checkpoint.tensors[name], theirs[name].t())
    assert Tokenizer.from_directory(path).encode("the cat")


def test_the_second_time_only_the_commit_is_asked_for(server: FakeHub, root: Path) -> None:
    commit = server.add(NAME.repo, small_files())
    path = kept(root)
    before = (path / "source.json").stat().st_mtime_ns
    server.asked.clear()
    assert kept(root) == path
    assert [asked.path for asked in server.asked] == ["/api/models/owner/some-gpt2/revision/main"]
    server.asked.clear()
    assert kept(root, HubName(NAME.repo, commit)) == path
    assert server.asked == []
    assert (path / "source.json").stat().st_mtime_ns == before


def test_offline_and_unreachable_open_what_is_kept(
    server: FakeHub, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add(NAME.repo, small_files())
    path = kept(root)
    (path.parent / "other").mkdir()
    for other in (
        Hub(server.url, tmp_path / "cache", is_offline=True),
        Hub("http://127.0.0.1:9", tmp_path / "cache"),
    ):
        monkeypatch.setattr(Hub, "from_environment", lambda hub=other: hub)
        told: list[str] = []
        assert keep(NAME, root, told.append, no_bar) == path
        assert len(told) == 1


def test_offline_converts_what_is_only_downloaded(
    server: FakeHub, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add(NAME.repo, small_files())
    path = kept(root)
    hub = Hub(server.url, tmp_path / "cache")
    monkeypatch.setattr(Hub, "from_environment", lambda: replace(hub, is_offline=True))
    elsewhere = tmp_path / "elsewhere"
    again = kept(elsewhere)
    assert again == elsewhere / path.relative_to(root)
    assert (again / WEIGHTS).read_bytes() == (path / WEIGHTS).read_bytes()


def test_a_branch_that_moved_on(server: FakeHub, root: Path) -> None:
    server.add(NAME.repo, small_files())
    first = kept(root)
    server.add(NAME.repo, small_files(1))
    second = kept(root)
    assert first != second
    assert first.is_dir()


def test_two_at_the_same_time_convert_once(
    server: FakeHub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add(NAME.repo, small_files())
    both, converted = Barrier(2), []
    convert = conversion.convert

    def counted(*arguments: Any, **options: Any) -> Any:
        converted.append(arguments)
        return convert(*arguments, **options)

    def start(_index: int) -> Path:
        both.wait()
        return kept(root)

    monkeypatch.setattr(conversion, "convert", counted)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(start, range(2))
    assert first == second
    assert len(converted) == 1
    assert [name for name in server.bodies() if name == WEIGHTS] == [WEIGHTS]
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_without_locks_the_loser_finds_the_winners(
    server: FakeHub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system where locks are always given."""
    server.add(NAME.repo, small_files())
    convert = conversion.convert

    def convert_after_another(*arguments: Any, **options: Any) -> Any:
        convert(*arguments, **options)
        return convert(*arguments, **options)

    monkeypatch.setattr(conversion, "convert", convert_after_another)
    assert open_checkpoint(kept(root)).source["format"] == "hf_gpt2"


def test_what_a_killed_conversion_left_is_removed(server: FakeHub, root: Path) -> None:
    commit = server.add(NAME.repo, small_files())
    folder = root / NAME.folder / commit
    folder.mkdir(parents=True)
    with suppress(KeyboardInterrupt), new_directory(folder / "some-gpt2") as left:
        raise KeyboardInterrupt
    left.mkdir()
    (left / WEIGHTS).write_bytes(b"half")
    assert kept(root).is_dir()
    assert not left.exists()


def test_weights_that_cannot_be_converted_are_kept_by_nobody(server: FakeHub, root: Path) -> None:
    tensors = load(small_files()[WEIGHTS])
    tensors["ln_f.bias"][0] = torch.nan
    commit = server.add(NAME.repo, {**small_files(), WEIGHTS: save(tensors)})
    with pytest.raises(HubError, match=r"tensor ln_f\.bias has 1 values that are NaN"):
        kept(root)
    assert list((root / NAME.folder / commit).iterdir()) == []


def test_what_is_refused_leaves_no_folder(server: FakeHub, root: Path) -> None:
    server.add(NAME.repo, {"config.json": json.dumps({"model_type": "llama"}).encode()})
    with pytest.raises(HubError, match="model_type 'llama' is not supported"):
        kept(root)
    assert not root.exists()
