"""Checkpoints of the hub in our own format: converted once, kept by repository and commit.

~/.cache/gpt2-server/converted/OWNER--NAME/COMMIT/NAME
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from weights.hub.checks import Destination
from weights.hub.errors import HubError
from weights.hub.fetch import fetch
from weights.hub.find import Found, Say, find
from weights.hub.names import HubName
from weights.hub.transfer import Hub, held

Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Opens a progress bar: a context of what is to be told (done_bytes, total_bytes)."""


def kept_root(environ: Mapping[str, str]) -> Path:
    """Where converted checkpoints are kept (XDG Base Directory Specification)."""
    cache = Path(environ.get("XDG_CACHE_HOME", ""))
    base = cache if cache.is_absolute() else Path.home() / ".cache"
    return base / "gpt2-server" / "converted"


def keep(name: HubName, root: Path, say: Say, bar: Bar) -> Path:
    """The folder that has ``name`` in our own format, converted now if it never was.

    A whole commit that was converted before is found without network, and without
    huggingface_hub. ``say`` is told what takes long. Raises HubError, OSError.
    """
    if name.commit is not None and _place(root, name, name.commit).is_dir():
        return _place(root, name, name.commit)
    hub = Hub.from_environment()
    found = find(hub, name, say)
    dest = _place(root, name, found.commit)
    if not dest.is_dir():
        snapshot = fetch(hub, found, Destination(dest), say)
        _convert(snapshot, found, dest, root, bar)
    return dest


def _place(root: Path, name: HubName, commit: str) -> Path:
    """The last folder is what the model is called."""
    return root / name.folder / commit / name.last


def _convert(snapshot: Path, found: Found, dest: Path, root: Path, bar: Bar) -> None:
    """Whoever comes second waits, and finds what the first has made."""
    from weights.convert import convert
    from weights.stored import CheckpointError

    dest.parent.mkdir(parents=True, exist_ok=True)
    with held(root / ".locks" / f"{found.name.folder}--{found.commit}.lock"):
        if dest.is_dir():
            return
        for left in dest.parent.glob(f".{dest.name}.*.partial"):  # of one that was killed
            shutil.rmtree(left, ignore_errors=True)
        try:
            with bar("converting") as progress:
                convert(snapshot, dest, progress=progress, origin=found.origin)
        except CheckpointError as error:
            if not dest.is_dir():  # it may be, where the file system has no locks
                raise HubError(error.problems) from error
