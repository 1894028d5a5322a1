"""Checksums of a directory of ours: what is read is what was written.

CRC-32C finds every damage up to 32 bits long and all but one in 2^32 of the rest, at 5 GB/s where
sha256 takes a second for one: cheap enough to be checked at every start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import google_crc32c

from weights.stored import file_sha256

CHECKSUMS = "crc32c"
"""The entry of source.json: file name -> CRC-32C in hex."""

_CHUNK_BYTES = 1 << 20


def file_crc32c(path: Path) -> str:
    """The CRC-32C of a file, eight hex digits. Raises OSError."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            crc = google_crc32c.extend(crc, chunk)
    return f"{crc:08x}"


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """File name -> checksum. Raises OSError."""
    return {name: file_crc32c(folder / name) for name in names}


def damages(
    folder: Path, source: Mapping[str, Any], weights_file: str = "model.safetensors"
) -> list[str]:
    """Every file of ``folder`` that is not what ``source``, its source.json, says was written.

    ``weights_file`` must be among those that it tells of.
    """
    recorded = source.get(CHECKSUMS)
    if recorded is None:  # written before there were any
        return _sha256_damage(folder, source)
    if not isinstance(recorded, dict) or weights_file not in recorded:
        return [f"source.json: {CHECKSUMS} is not an object of file names"]
    return [
        problem
        for name, written in sorted(recorded.items())
        if (problem := _crc32c_damage(folder, name, written))
    ]


def _crc32c_damage(folder: Path, name: str, written: object) -> str | None:
    if Path(name).name != name:
        return f"source.json: {CHECKSUMS} names {name[:80]!r}, which is no file of this directory"
    try:
        found = file_crc32c(folder / name)
    except FileNotFoundError:
        return f"{name} is missing"
    except (OSError, ValueError) as error:
        return f"{name[:80]!r} cannot be read: {error}"
    if found == written:
        return None
    return f"{name} is damaged: its CRC-32C is {found}, what was written had {written!r}"


def _sha256_damage(folder: Path, source: Mapping[str, Any]) -> list[str]:
    found, written = file_sha256(folder / "model.safetensors"), source.get("model_sha256")
    if found == written:
        return []
    return [
        f"model.safetensors is damaged: its sha256 is {found}, what was written had {written!r}"
    ]
