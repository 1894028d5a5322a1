"""What a name stands for: asked of the hub, or as it was seen last."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.fake_hub import FakeHub, Fault
from tests.support.small_hf import WEIGHTS, small_files
from weights.hub.errors import HubError
from weights.hub.find import find
from weights.hub.names import HubName
from weights.hub.transfer import Hub

NAME = HubName("owner/name")


@pytest.fixture
def commit(server: FakeHub) -> str:
    return server.add(NAME.repo, small_files())


def test_the_commit_and_its_files(hub: Hub, server: FakeHub, commit: str, said: list[str]) -> None:
    found = find(hub, NAME, said.append)
    assert (found.commit, found.origin) == (commit, f"owner/name@{commit}")
    assert found.files is not None
    assert found.files.keys() == small_files().keys()
    assert found.files[WEIGHTS].sha256 is not None
    assert found.files["config.json"].sha256 is None
    assert said == []


def test_a_known_commit_costs_one_request(hub: Hub, server: FakeHub, commit: str) -> None:
    find(hub, NAME, print)
    server.asked.clear()
    find(hub, NAME, print)
    assert [asked.path for asked in server.asked] == ["/api/models/owner/name/revision/main"]


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/2"])
def test_revisions(revision: str, hub: Hub, server: FakeHub, commit: str) -> None:
    other = server.add(NAME.repo, small_files(1), revision)
    assert other != commit
    assert find(hub, HubName(NAME.repo, revision), print).commit == other
    assert find(hub, HubName(NAME.repo, other), print).commit == other
    assert find(hub, NAME, print).commit == commit


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_that_is_unwell(
    status: int, hub: Hub, server: FakeHub, commit: str, said: list[str]
) -> None:
    find(hub, NAME, said.append)
    server.faults = [Fault("/api/", status=status)]
    found = find(hub, NAME, said.append)
    assert (found.commit, found.files) == (commit, None)
    assert len(said) == 1
    assert f"answered {status}" in said[0]
    assert said[0].endswith(f"owner/name is taken as last seen, commit {commit}")


def test_no_network(hub: Hub, server: FakeHub, commit: str, said: list[str]) -> None:
    find(hub, NAME, said.append)
    gone = replace(hub, endpoint="http://127.0.0.1:9")
    assert find(gone, NAME, said.append).commit == commit
    assert "http://127.0.0.1:9 cannot be reached" in said[0]
    with pytest.raises(HubError) as caught:
        find(gone, HubName("never/seen"), said.append)
    assert "http://127.0.0.1:9 cannot be reached" in str(caught.value)
    assert f"never/seen is neither here nor in the cache {hub.cache}" in str(caught.value)


def test_a_host_that_there_is_not(hub: Hub) -> None:
    with pytest.raises(HubError, match=r"http://no-such-host\.invalid cannot be reached"):
        find(replace(hub, endpoint="http://no-such-host.invalid"), NAME, print)


def test_a_hub_that_never_answers(
    hub: Hub, server: FakeHub, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.05)
    server.faults = [Fault("/api/", cut_at=0, stall=server.released)]
    with pytest.raises(HubError, match="cannot be reached: timed out"):
        find(hub, NAME, print)
    server.released.set()


def test_offline_asks_nobody(hub: Hub, server: FakeHub, commit: str, said: list[str]) -> None:
    find(hub, NAME, said.append)
    server.asked.clear()
    offline = replace(hub, is_offline=True)
    found = find(offline, NAME, said.append)
    assert (found.commit, found.files) == (commit, None)
    assert said == [f"HF_HUB_OFFLINE is set: owner/name is taken as last seen, commit {commit}"]
    unseen = "HF_HUB_OFFLINE is set, and owner/name@v2 is neither here nor in the cache"
    with pytest.raises(HubError) as caught:
        find(offline, HubName(NAME.repo, "v2"), said.append)
    assert caught.value.problems == [f"{unseen} {hub.cache}"]
    assert server.asked == []


def test_a_reference_in_the_cache_that_is_no_commit(hub: Hub) -> None:
    refs = hub.folder(NAME) / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("../../../etc")
    with pytest.raises(HubError, match="is neither here nor in the cache"):
        find(replace(hub, is_offline=True), NAME, print)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Please log in</html>",
        b"[]",
        b"{}",
        b'{"id": "a", "sha": "../../x", "siblings": []}',
        b'{"id": "a", "siblings": []}',
        b'{"id": "a", "sha": "%s", "siblings": [{}]}' % (b"0" * 40),
        b'{"id": "a", "sha": "%s", "siblings": [{"rfilename": "x", "lfs": '
        b'{"sha256": "../x", "size": 1, "pointerSize": 1}}]}' % (b"0" * 40),
    ],
)
def test_an_answer_that_is_no_hubs(body: bytes, hub: Hub, server: FakeHub, commit: str) -> None:
    server.faults = [Fault("/api/", body=body)]
    with pytest.raises(HubError, match=rf"{server.url} (does not answer|gives a commit)"):
        find(hub, NAME, print)


def test_a_cache_that_cannot_be_written_does_not_matter_yet(
    hub: Hub, server: FakeHub, commit: str, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where the cache would be")
    assert find(hub, NAME, print).commit == commit
