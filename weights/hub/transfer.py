"""One file from the hub into huggingface_hub's cache, resumed where it was cut, and verified.

huggingface_hub 2 throws away what an interrupted process had got. So a large file is written
here, to the name that older versions resumed from, ``blobs/<sha256>.incomplete``, and comes under
its own name once its hash is right. Everything else (addresses, retries, the links that make a
snapshot of blobs) is huggingface_hub's.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from weights.hub.errors import HubError
from weights.hub.listing import RepoFile
from weights.hub.names import HubName

_RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True)
class Hub:
    """Where names are looked up, and where files are kept."""

    endpoint: str
    cache: Path
    """huggingface_hub's own, shared with everything else that uses it."""
    is_offline: bool = False

    @classmethod
    def from_environment(cls) -> Hub:
        """What HF_ENDPOINT, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE say.

        huggingface_hub reads them, and all others, once, when it is imported. So telemetry is
        switched off before that, if nobody chose otherwise: without it, requests do not say which
        other libraries there are, and no list is fetched to recognize the caller by.
        """
        for variable in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_SYMLINKS_WARNING"):
            os.environ.setdefault(variable, "1")
        from huggingface_hub import constants

        return cls(constants.ENDPOINT, Path(constants.HF_HUB_CACHE), constants.is_offline_mode())

    def folder(self, name: HubName) -> Path:
        """What the cache has of one repository."""
        return self.cache / f"models--{name.folder}"

    def snapshot(self, name: HubName, commit: str) -> Path:
        """Where the cache has the files of one commit."""
        return self.folder(name) / "snapshots" / commit

    def blob(self, name: HubName, file: RepoFile) -> Path | None:
        """Where the cache has the content of a large file; None for a small one."""
        return self.folder(name) / "blobs" / file.sha256 if file.sha256 else None


def missing_bytes(hub: Hub, name: HubName, commit: str, file: RepoFile) -> int:
    """How many bytes of ``file`` are not in the cache yet."""
    blob = hub.blob(name, file)
    if (blob or hub.snapshot(name, commit) / file.name).exists():
        return 0
    part = _part(blob) if blob else None
    got = part.stat().st_size if part and part.exists() else 0
    return max(0, file.size - got)


def _part(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.incomplete")


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """Wait until no other process holds the file ``lock``, and hold it in the block."""
    from huggingface_hub.utils import WeakFileLock

    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        yield


def download(hub: Hub, name: HubName, commit: str, file: RepoFile) -> Path:
    """Bring ``file`` into the cache, and return where it lies in the commit's snapshot.

    A large file's sha256 is compared, also where it was there already. Raises HubError, and
    what huggingface_hub raises.
    """
    from huggingface_hub import hf_hub_download

    blob = hub.blob(name, file)
    if blob is not None:
        _bring_blob(hub, name, commit, file, blob)
    path = Path(
        hf_hub_download(
            name.repo, file.name, revision=commit, cache_dir=hub.cache, endpoint=hub.endpoint
        )
    )
    if blob is not None and path.resolve() != blob.resolve():  # a copy, or another file altogether
        verify(path, file.name, blob.name)
    return path


def _bring_blob(hub: Hub, name: HubName, commit: str, file: RepoFile, blob: Path) -> None:
    # The same lock as hf_hub_download's, so that nobody else is at the same file.
    lock = hub.cache / ".locks" / hub.folder(name).name / f"{blob.name}.lock"
    blob.parent.mkdir(parents=True, exist_ok=True)
    with held(lock):
        if blob.exists():
            verify(blob, file.name, blob.name)
            return
        part = _part(blob)
        _resume(hub, name, commit, file, part)
        verify(part, file.name, blob.name)
        part.replace(blob)


def _resume(hub: Hub, name: HubName, commit: str, file: RepoFile, part: Path) -> None:
    """Bring ``part`` to its full size, from where it ends."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(name.repo, file.name, revision=commit, endpoint=hub.endpoint)
    # Compressed, a part of an answer would be no part of the file.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    got = part.stat().st_size if part.exists() else 0
    if got > file.size:
        part.unlink()
        got = 0
    try:
        with part.open("ab") as stream:
            http_get(
                url,
                stream,
                resume_size=got,
                headers=headers,
                expected_size=file.size,
                displayed_filename=file.name,
            )
    except HfHubHTTPError as error:
        if error.response.status_code == _RANGE_NOT_SATISFIABLE:
            part.unlink()
        raise


def verify(path: Path, file_name: str, sha256: str) -> None:
    """Compare the sha256 of a file; remove it and raise HubError where it is another."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        path.unlink()
        raise HubError(
            [
                f"{file_name} has the sha256 {found}, {sha256} was expected: it was removed, "
                f"and will be downloaded anew"
            ]
        )
