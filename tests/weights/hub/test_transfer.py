"""One large file: resumed where it was cut, and never taken with another hash."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub.errors import HfHubHTTPError

from tests.support.fake_hub import FakeHub, Fault
from weights.hub.errors import HubError
from weights.hub.listing import RepoFile
from weights.hub.names import HubName
from weights.hub.transfer import Hub, download, missing_bytes

NAME = HubName("owner/name")
FILE = "model.safetensors"
CONTENT = bytes(i * i % 251 for i in range(10_500))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LARGE = RepoFile(FILE, len(CONTENT), SHA256)


@pytest.fixture
def commit(server: FakeHub) -> str:
    return server.add(NAME.repo, {FILE: CONTENT, "config.json": b"{}"})


def blob(hub: Hub) -> Path:
    return hub.folder(NAME) / "blobs" / SHA256


def part(hub: Hub) -> Path:
    return blob(hub).with_name(f"{SHA256}.incomplete")


def starts(server: FakeHub) -> list[int | None]:
    return [a.start for a in server.asked if a.method == "GET" and a.path.startswith("/lfs")]


def test_a_large_file_becomes_a_blob_and_a_link(hub: Hub, server: FakeHub, commit: str) -> None:
    path = download(hub, NAME, commit, LARGE)
    assert path == hub.snapshot(NAME, commit) / FILE
    assert path.read_bytes() == CONTENT
    assert path.resolve() == blob(hub).resolve()
    assert not part(hub).exists()
    server.asked.clear()
    assert download(hub, NAME, commit, LARGE) == path
    assert server.asked == []


def test_what_was_cut_in_every_try_goes_on_in_the_next_call(
    hub: Hub, server: FakeHub, commit: str
) -> None:
    """As after the death of the process: what was got lies in the part."""
    server.faults = [Fault("/lfs/", cut_at=4_321, times=1), Fault("/lfs/", cut_at=0)]
    with pytest.raises(Exception, match="peer closed connection"):
        download(hub, NAME, commit, LARGE)
    got = part(hub).stat().st_size
    assert 0 < got <= 4_321
    assert not blob(hub).exists()
    assert missing_bytes(hub, NAME, commit, LARGE) == len(CONTENT) - got
    server.faults.clear()
    server.asked.clear()
    assert download(hub, NAME, commit, LARGE).read_bytes() == CONTENT
    assert starts(server) == [got]
    assert missing_bytes(hub, NAME, commit, LARGE) == 0


def test_a_short_cut_is_resumed_in_the_same_call(hub: Hub, server: FakeHub, commit: str) -> None:
    server.faults = [Fault("/lfs/", cut_at=4_000, times=1)]
    assert download(hub, NAME, commit, LARGE).read_bytes() == CONTENT
    assert starts(server) == [None, 4_000]


def test_two_at_the_same_file_download_it_once(hub: Hub, server: FakeHub, commit: str) -> None:
    server.faults = [Fault("/lfs/", cut_at=4_000, stall=server.released, times=1)]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(download, hub, NAME, commit, LARGE)
        assert server.started.wait(10)
        second = pool.submit(download, hub, NAME, commit, LARGE)
        with pytest.raises(TimeoutError):
            second.result(0.2)
        server.released.set()
        assert first.result(10) == second.result(10)
    assert starts(server) == [None, 4_000]


def test_a_wrong_hash_is_refused_and_leaves_nothing(hub: Hub, server: FakeHub, commit: str) -> None:
    wrong = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
    server.faults = [Fault("/lfs/", body=wrong)]
    with pytest.raises(HubError, match=rf"{FILE} has the sha256 \w+, {SHA256} was expected"):
        download(hub, NAME, commit, LARGE)
    assert list((hub.folder(NAME) / "blobs").iterdir()) == []
    server.faults.clear()
    assert download(hub, NAME, commit, LARGE).read_bytes() == CONTENT


def test_a_part_of_something_else_is_found_out(hub: Hub, commit: str) -> None:
    part(hub).parent.mkdir(parents=True)
    part(hub).write_bytes(b"x" * 5_000)
    with pytest.raises(HubError, match="was removed, and will be downloaded anew"):
        download(hub, NAME, commit, LARGE)
    assert download(hub, NAME, commit, LARGE).read_bytes() == CONTENT


@pytest.mark.parametrize("size", [10_499, 10_500, 10_501, 20_000])
def test_a_part_of_any_size(size: int, hub: Hub, commit: str) -> None:
    part(hub).parent.mkdir(parents=True)
    part(hub).write_bytes((CONTENT * 2)[:size])
    assert download(hub, NAME, commit, LARGE).read_bytes() == CONTENT


def test_a_blob_that_went_bad_is_removed(hub: Hub, commit: str) -> None:
    path = download(hub, NAME, commit, LARGE)
    blob(hub).write_bytes(b"bad")
    with pytest.raises(HubError, match=FILE):
        download(hub, NAME, commit, LARGE)
    assert not path.exists()
    assert download(hub, NAME, commit, LARGE).read_bytes() == CONTENT


def test_another_file_than_the_listed_one_is_refused(
    hub: Hub, server: FakeHub, commit: str
) -> None:
    """The list says one sha256, the file's own address another."""
    download(hub, NAME, commit, LARGE)
    (hub.snapshot(NAME, commit) / FILE).unlink()
    server.repos[NAME.repo].commits[commit][FILE] = b"another"
    with pytest.raises(HubError, match=FILE):
        download(hub, NAME, commit, LARGE)


def test_a_file_shorter_than_listed(hub: Hub, server: FakeHub, commit: str) -> None:
    """The rest of it cannot be had: the part is thrown away, and nothing is taken."""
    listed = RepoFile(FILE, len(CONTENT) + 5, SHA256)
    with pytest.raises(OSError, match="Consistency check failed"):
        download(hub, NAME, commit, listed)
    with pytest.raises(HfHubHTTPError, match="416"):
        download(hub, NAME, commit, listed)
    assert list((hub.folder(NAME) / "blobs").iterdir()) == []


def test_a_token_is_not_shown_to_where_the_large_files_are(
    hub: Hub, server: FakeHub, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    download(hub, NAME, commit, LARGE)
    shown = {(asked.path.split("/")[1], asked.token) for asked in server.asked}
    assert shown == {("owner", "Bearer hf_secret"), ("lfs", None)}
