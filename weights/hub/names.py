"""What a name on the hub looks like: ``gpt2``, ``owner/name``, ``owner/name@revision``.

Names become folders here and addresses there, so only what can do no harm as either is one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from weights.hub.errors import HubError

DEFAULT_REVISION = "main"
COMMIT = re.compile("[0-9a-f]{40}")
"""A whole commit hash, which never means anything else later."""

_MAX_PART_LEN = 96
_MAX_REVISION_LEN = 200
_PART = re.compile(r"\w(?:[\w.-]*\w)?", re.ASCII)
_REVISION_PART = re.compile(r"[a-zA-Z0-9_](?:[\w.+-]*[\w+-])?", re.ASCII)


@dataclass(frozen=True)
class HubName:
    """A repository, and the branch, tag or commit that is meant."""

    repo: str
    """``name`` or ``owner/name``."""
    revision: str = DEFAULT_REVISION

    def __str__(self) -> str:
        return self.repo if self.revision == DEFAULT_REVISION else f"{self.repo}@{self.revision}"

    @property
    def last(self) -> str:
        """The name without its owner."""
        return self.repo.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The repository as the name of one folder; ``--`` is in no repository's name."""
        return self.repo.replace("/", "--")

    @property
    def commit(self) -> str | None:
        """The revision, where it is a whole commit hash."""
        return self.revision if COMMIT.fullmatch(self.revision) else None


def parse_name(text: str, revision: str | None = None) -> HubName | None:
    """The name that ``text`` is, or None where it cannot be one.

    ``revision`` stands for one that is not written in the text. Raises HubError where there are
    two, or where it is no revision.
    """
    repo, at, written = text.partition("@")
    if not _is_repo(repo) or (at and not _is_revision(written)):
        return None
    if revision is None:
        return HubName(repo, written or DEFAULT_REVISION)
    if at:
        raise HubError([f"{text} has a revision already, and {revision!r} is given beside it"])
    if not _is_revision(revision):
        raise HubError([f"revision {revision!r} cannot be a branch, a tag or a commit"])
    return HubName(repo, revision)


def _is_repo(text: str) -> bool:
    """The hub's own rule."""
    parts = text.split("/")
    is_formed = all(_PART.fullmatch(part) and len(part) <= _MAX_PART_LEN for part in parts)
    has_none_of = not any(mark in text for mark in ("--", ".."))
    return len(parts) <= 2 and is_formed and has_none_of and not text.endswith(".git")


def _is_revision(text: str) -> bool:
    parts = text.split("/")
    is_plain = all(map(_REVISION_PART.fullmatch, parts)) and ".." not in text
    return is_plain and len(text) <= _MAX_REVISION_LEN
