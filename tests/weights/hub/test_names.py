"""What is a name on the hub, and what may never be taken for one."""

from __future__ import annotations

import pytest
from huggingface_hub.utils import validate_repo_id
from hypothesis import given
from hypothesis import strategies as st

from weights.hub.errors import HubError
from weights.hub.names import HubName, parse_name

COMMIT = "607a30d783dfa663caf39e06633721c8d4cfcd7e"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("gpt2", HubName("gpt2", "main")),
        ("gpt2-xl", HubName("gpt2-xl", "main")),
        ("distilgpt2", HubName("distilgpt2", "main")),
        ("openai-community/gpt2-xl", HubName("openai-community/gpt2-xl", "main")),
        ("owner/name@v1.0", HubName("owner/name", "v1.0")),
        ("gpt2@refs/pr/3", HubName("gpt2", "refs/pr/3")),
        (f"a/b.c_d@{COMMIT}", HubName("a/b.c_d", COMMIT)),
    ],
)
def test_names(text: str, name: HubName) -> None:
    assert parse_name(text) == name
    assert parse_name(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "..", "/", "/gpt2", "./gpt2", "../gpt2", "~/gpt2", "~", "gpt2/", "a//b"),
        *("a/b/c", "a/../b", "../../etc/passwd", "a/..", "a..b", "a--b", "-a", "a-", ".a/b"),
        *("a b", "a\\b", "a\0b", "a\n", "naïve", "C:\\gpt2", "http://a/b", "a?b", "a%2Fb", "a:b"),
        *("a.git", "n" * 97, "gpt2@", "gpt2@../x", "gpt2@a..b", "gpt2@/x", "gpt2@a//b", "gpt2@-x"),
        *("gpt2@a b", "gpt2@v1@v2", "gpt2@refs/", "gpt2@.x", "@main", "gpt2@" + "r" * 201),
    ],
)
def test_what_cannot_be_a_name(text: str) -> None:
    assert parse_name(text) is None


@given(st.text(st.sampled_from("ab1.-_/@~\\ \0é"), max_size=12))
def test_a_name_leads_nowhere_else(text: str) -> None:
    """Whatever is accepted, huggingface_hub accepts, and its folder is one folder."""
    name = parse_name(text)
    if name is not None:
        validate_repo_id(name.repo)
        for part in (name.folder, *name.revision.split("/")):
            assert part not in {"", ".", ".."}
            assert not {"/", "\\", "\0", "~", " "} & set(part)


def test_two_repositories_never_share_a_folder() -> None:
    folders = {HubName(repo).folder for repo in ("a/b-c", "a-b/c", "a-b-c", "a_b/c")}
    assert len(folders) == 4


def test_a_revision_beside_the_name() -> None:
    assert parse_name("owner/name", "v2") == HubName("owner/name", "v2")
    assert parse_name("/no/name", "v2") is None
    with pytest.raises(HubError, match=r"gpt2@v1 has a revision already, and 'v2' is given"):
        parse_name("gpt2@v1", "v2")
    with pytest.raises(HubError, match=r"revision '\.\./x' cannot be a branch"):
        parse_name("gpt2", "../x")


def test_only_a_whole_commit_is_one() -> None:
    assert HubName("gpt2", COMMIT).commit == COMMIT
    assert HubName("gpt2", COMMIT[:12]).commit is None
    assert HubName("gpt2").commit is None
