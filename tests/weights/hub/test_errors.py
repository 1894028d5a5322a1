"""Each way in which the hub says no, in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fake_hub import FakeHub, Fault
from tests.support.small_hf import WEIGHTS, small_files
from weights.hub.errors import HubError, told

Bring = Callable[[str], Path]


@pytest.fixture
def commit(server: FakeHub) -> str:
    return server.add("owner/name", small_files())


def problems(bring: Bring, text: str) -> list[str]:
    with pytest.raises(HubError) as caught:
        bring(text)
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


def test_a_name_that_does_not_exist(bring: Bring, server: FakeHub) -> None:
    expected = (
        f"nobody/nothing does not exist, neither here nor at {server.url}; if it is private "
        f"there, set HF_TOKEN to a token that may read it"
    )
    assert problems(bring, "nobody/nothing") == [expected]


@pytest.mark.parametrize("fault", [Fault("", 401), Fault("", 404), Fault("", 404, "RepoNotFound")])
def test_private_and_missing_look_the_same(fault: Fault, bring: Bring, server: FakeHub) -> None:
    server.faults = [fault]
    assert "gpt2 does not exist" in problems(bring, "gpt2")[0]


def test_a_revision_that_does_not_exist(bring: Bring, server: FakeHub, commit: str) -> None:
    expected = [f"owner/name has no revision 'v9' at {server.url}"]
    assert problems(bring, "owner/name@v9") == expected
    assert "has no revision" in problems(bring, f"owner/name@{'0' * 40}")[0]


@pytest.mark.parametrize(("where", "status"), [("/api/", 403), ("/resolve/", 401)])
def test_a_gated_repository_names_the_token(
    where: str, status: int, bring: Bring, server: FakeHub, commit: str
) -> None:
    server.faults = [Fault(where, status, "GatedRepo")]
    expected = (
        f"owner/name is gated: ask for access at {server.url}/owner/name, and set HF_TOKEN to a "
        f"token of the account that was given it"
    )
    assert problems(bring, "owner/name") == [expected]


@pytest.mark.parametrize("status", [403, 500, 503])
@pytest.mark.parametrize("where", ["config.json", "tokenizer.json", WEIGHTS])
def test_a_file_that_is_refused(
    where: str, status: int, bring: Bring, server: FakeHub, commit: str
) -> None:
    server.faults = [Fault(where, status)]
    (told_,) = problems(bring, "owner/name")
    assert str(status) in told_


def test_a_listed_file_that_is_not_there(bring: Bring, server: FakeHub, commit: str) -> None:
    server.faults = [Fault("tokenizer.json", 404, "EntryNotFound")]
    (told_,) = problems(bring, "owner/name")
    assert "owner/name: a file of its list is not there" in told_
    assert "tokenizer.json" in told_


def test_a_download_that_never_gets_on(bring: Bring, server: FakeHub, commit: str) -> None:
    server.faults = [Fault("/lfs/", cut_at=0)]
    (told_,) = problems(bring, "owner/name")
    assert told_.startswith(f"{server.url} cannot be reached: peer closed connection")


def test_a_full_disk(
    bring: Bring, server: FakeHub, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_no_more(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device", "some/file")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", write_no_more)
    assert problems(bring, "owner/name") == ["owner/name: No space left on device: some/file"]


def test_a_cache_that_cannot_be_written(
    bring: Bring, server: FakeHub, commit: str, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where the cache would be")
    (told_,) = problems(bring, "owner/name")
    assert told_.startswith("owner/name: ")
    assert str(tmp_path / "cache") in told_


def test_an_endpoint_that_is_no_address() -> None:
    import httpx2

    with pytest.raises(HubError, match="nonsense cannot be reached"), told("a", "b", "nonsense"):
        httpx2.get("nonsense/api")
