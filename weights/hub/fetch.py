"""What a name stands for -> a folder with what conversion needs of it, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from weights.hub import listing
from weights.hub.checks import (
    Described,
    Destination,
    Room,
    converted_room,
    read_config,
    room_problems,
    size_problems,
)
from weights.hub.errors import HubError, told
from weights.hub.find import Found, Say
from weights.hub.listing import Files, RepoFile
from weights.hub.transfer import Hub, download, missing_bytes, verify

_OWN_RECORD = "source.json"
_SHA256 = re.compile("[0-9a-f]{64}")


def fetch(hub: Hub, found: Found, dest: Destination, say: Say) -> Path:
    """The folder with the configuration, the weights and the vocabulary of ``found``.

    Nothing large is downloaded before all that can be known is known to be well: the list of
    files, the configuration, the index of the shards, and the room for the download and for the
    conversion to ``dest``. Raises HubError listing every problem.
    """
    if found.files is None:
        return _cached(hub, found)
    with told(found.name.repo, found.name.revision, hub.endpoint):
        wanted = _checked(hub, found, found.files, dest)
        num_bytes = _missing_bytes(hub, found, wanted)
        if num_bytes:
            say(f"downloading {num_bytes / 1e6:,.1f} MB of {found.origin}")
        for file in wanted:
            download(hub, found.name, found.commit, file)
    return hub.snapshot(found.name, found.commit)


def _checked(hub: Hub, found: Found, files: Files, dest: Destination) -> list[RepoFile]:
    """What is still needed, once the small files are here and nothing is against the rest."""
    problems = listing.list_problems(files)
    small = listing.small(listing.configs(files), files)
    for name in small:
        download(hub, found.name, found.commit, files[name])
    snapshot = hub.snapshot(found.name, found.commit)
    described = read_config(snapshot) if listing.CONFIG in small else Described(None, [])
    weights, more = listing.weights(snapshot, files)
    problems += [*described.problems, *more]
    weights_bytes = sum(files[name].size for name in weights)
    if described.config is not None and weights:
        is_quantised = described.is_quantised
        problems += size_problems(described.config, weights_bytes, is_quantised=is_quantised)
    record = [_OWN_RECORD] if described.is_own and _OWN_RECORD in files else []
    wanted = [files[name] for name in (*listing.vocabulary(files), *record, *weights)]
    room = Room(hub.folder(found.name), _missing_bytes(hub, found, wanted))
    problems += room_problems([room, converted_room(described.config, weights_bytes, dest)])
    if problems:
        raise HubError([f"{found.name}: {problem}" for problem in problems])
    return wanted


def _missing_bytes(hub: Hub, found: Found, files: Iterable[RepoFile]) -> int:
    return sum(missing_bytes(hub, found.name, found.commit, file) for file in files)


def _cached(hub: Hub, found: Found) -> Path:
    """The snapshot as it lies in the cache, if it is whole."""
    snapshot = hub.snapshot(found.name, found.commit)
    files = {path.name: _lying(path) for path in snapshot.glob("*") if path.is_file()}
    problems = listing.list_problems(files)
    weights, more = listing.weights(snapshot, files)
    if problems or more:
        where = f"{found.origin} is not whole in the cache {hub.cache}"
        raise HubError([f"{where}: {problem}" for problem in (*problems, *more)])
    for file in map(files.__getitem__, weights):
        if file.sha256 is not None:
            with told(found.name.repo, found.name.revision, hub.endpoint):
                verify((snapshot / file.name).resolve(), file.name, file.sha256)
    return snapshot


def _lying(path: Path) -> RepoFile:
    """A file of the cache. A large one is a link to a blob that is named by its sha256."""
    blob = path.resolve()
    sha256 = blob.name if _SHA256.fullmatch(blob.name) else None
    return RepoFile(path.name, blob.stat().st_size, sha256)
