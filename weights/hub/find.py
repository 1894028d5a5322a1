"""What a name stands for now: its commit and the files of that, asked of the hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weights.hub.errors import HubError, HubUnreachable, told
from weights.hub.listing import CONFIG, Files, RepoFile
from weights.hub.names import COMMIT, HubName
from weights.hub.transfer import Hub

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

Say = Callable[[str], None]
"""Told what a person should know meanwhile, a line at a time."""

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Found:
    """What a name stands for."""

    name: HubName
    commit: str
    files: Files | None
    """None where the hub could not be asked: then this is the commit as last seen."""

    @property
    def origin(self) -> str:
        """Repository and commit, as a name that means the same for ever."""
        return f"{self.name.repo}@{self.commit}"


def find(hub: Hub, name: HubName, say: Say) -> Found:
    """Ask the hub; where it cannot be asked, take what was seen last, and say so.

    Raises HubError.
    """
    if hub.is_offline:
        return _last_found(hub, name, "HF_HUB_OFFLINE is set", say)
    try:
        found = _ask(hub, name)
    except HubUnreachable as error:
        return _last_found(hub, name, error.problems[0], say)
    _remember(hub, found)
    return found


def _ask(hub: Hub, name: HubName) -> Found:
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT

    api, timeout_s = HfApi(endpoint=hub.endpoint), HF_HUB_ETAG_TIMEOUT
    with told(name.repo, name.revision, hub.endpoint):
        try:
            info = api.model_info(
                name.repo, revision=name.revision, files_metadata=True, timeout=timeout_s
            )
            commit, files = str(info.sha), _files(info)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise HubError([f"{hub.endpoint} does not answer as a hub does"]) from error
    # Both become names of files here.
    hashes = [file.sha256 for file in files.values() if file.sha256 is not None]
    if not COMMIT.fullmatch(commit) or not all(map(_SHA256.fullmatch, hashes)):
        raise HubError([f"{hub.endpoint} gives a commit or a sha256 of {name} that is none"])
    return Found(name, commit, files)


def _files(info: ModelInfo) -> Files:
    files = {}
    for sibling in info.siblings or ():
        large = sibling.lfs
        size = large.size if large else sibling.size or 0
        files[sibling.rfilename] = RepoFile(
            sibling.rfilename, size, large.sha256 if large else None
        )
    return files


def _last_found(hub: Hub, name: HubName, reason: str, say: Say) -> Found:
    commit = _last_commit(hub, name)
    if commit is None:
        raise HubError([f"{reason}, and {name} is neither here nor in the cache {hub.cache}"])
    say(f"{reason}: {name} is taken as last seen, commit {commit}")
    return Found(name, commit, None)


def _last_commit(hub: Hub, name: HubName) -> str | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    try:
        known = HfApi().resolve_revision(
            name.repo, revision=name.revision, cache_dir=hub.cache, local_files_only=True
        )
    except RevisionResolutionError:
        return None
    return known.resolved if COMMIT.fullmatch(known.resolved) else None


def _remember(hub: Hub, found: Found) -> None:
    """Have huggingface_hub note which commit a branch or tag is at, for a start without network.

    It does that when a file is asked for by the branch. Nothing depends on it now.
    """
    from huggingface_hub import hf_hub_download

    is_known = _last_commit(hub, found.name) == found.commit
    if is_known or found.files is None or CONFIG not in found.files:
        return
    with suppress(OSError):  # HTTP errors are some too: what matters is asked for again, and told
        hf_hub_download(
            found.name.repo,
            CONFIG,
            revision=found.name.revision,
            cache_dir=hub.cache,
            endpoint=hub.endpoint,
        )
