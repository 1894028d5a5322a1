"""What can be known before a large download: the configuration, the sizes, and the room."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from weights.hub.listing import CONFIG

if TYPE_CHECKING:
    from model.config import GPTConfig

_LEAST_BYTES = 2
"""Of a parameter, in any dtype that weights may be stored in."""
_LEAST_QUANTISED_BYTES = 0.5
_BYTES_OF = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Destination:
    """Where the conversion goes that a download is for. None keeps the dtype."""

    path: Path
    dtype: str | None = None


@dataclass(frozen=True)
class Room:
    """Bytes that will be written below a folder, which need not be there yet."""

    folder: Path
    num_bytes: int


@dataclass(frozen=True)
class Described:
    """What a repository's small files say of the rest."""

    config: GPTConfig | None
    problems: list[str]
    is_own: bool = False
    """Whether it is in our own format, which has a record beside the configuration."""
    is_quantised: bool = False


def read_config(snapshot: Path) -> Described:
    """Read and check the configuration of a snapshot that may have no weights yet."""
    from weights.checkpoint import own_config
    from weights.formats import hf_config
    from weights.quantised import QUANTIZATION
    from weights.stored import CheckpointError, read_object

    try:
        values = read_object(snapshot / CONFIG)
        if "format" in values:
            problems, config = own_config(values)
            return Described(config, problems, is_own=True, is_quantised=QUANTIZATION in values)
        return Described(*hf_config.read_config(snapshot))
    except CheckpointError as error:
        return Described(None, error.problems)


def size_problems(
    config: GPTConfig, weights_bytes: int, *, is_quantised: bool = False
) -> list[str]:
    """Whether the weights can be all there: they are never compressed."""
    least = int(config.num_parameters * (_LEAST_QUANTISED_BYTES if is_quantised else _LEAST_BYTES))
    if weights_bytes >= least:
        return []
    return [
        f"the weights have {weights_bytes:,} bytes, but {config.num_parameters:,} parameters are "
        f"at least {least:,}"
    ]


def converted_room(config: GPTConfig | None, weights_bytes: int, dest: Destination) -> Room:
    """What the converted weights will take."""
    if config is not None and dest.dtype in _BYTES_OF:
        return Room(dest.path.parent, config.num_parameters * _BYTES_OF[dest.dtype])
    return Room(dest.path.parent, weights_bytes)


def room_problems(rooms: Iterable[Room]) -> list[str]:
    """One line for each disk that has less free than will be written to it."""
    disks: dict[int, list[Room]] = {}
    for room in rooms:
        disks.setdefault(_existing(room.folder).stat().st_dev, []).append(room)
    problems = []
    for on_disk in disks.values():
        free = shutil.disk_usage(_existing(on_disk[0].folder)).free
        needed = sum(room.num_bytes for room in on_disk)
        if needed > free:
            folders = " and ".join(str(room.folder) for room in on_disk)
            problems.append(f"{needed:,} bytes are needed in {folders}, but {free:,} are free")
    return problems


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
