"""A directory that is there whole or not at all, and its problems told with its name."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weights.stored import CheckpointError


@contextmanager
def named_problems(path: Path) -> Iterator[None]:
    """Name ``path`` once, before the problems; and turn OSError into one line."""
    try:
        yield
    except CheckpointError as error:
        first, *rest = error.problems
        raise CheckpointError([f"{path}: {first}", *rest]) from error
    except OSError as error:
        raise CheckpointError([f"{path}: {error.strerror or error}"]) from error


def dest_problems(dest: Path) -> list[str]:
    """Why nothing can be written at ``dest``, which must be new."""
    if dest.exists() or dest.is_symlink():
        return [f"{dest}: exists already"]
    if not dest.parent.is_dir():
        return [f"{dest}: {dest.parent} is not a directory"]
    return []


@contextmanager
def new_directory(dest: Path) -> Iterator[Path]:
    """A directory to write in, beside ``dest``; renamed to it at the end, removed on any error."""
    temporary = dest.parent / f".{dest.name}.{secrets.token_hex(4)}.partial"
    temporary.mkdir()
    try:
        yield temporary
        _sync(temporary)
        temporary.rename(dest)
        _sync(dest.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_object(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON to the new file ``path``, through to the disk."""
    write_bytes(path, (json.dumps(values, indent=2) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write the new file ``path``, through to the disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Make the names in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
