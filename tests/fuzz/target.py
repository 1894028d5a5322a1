"""What is fuzzed: bytes go in, and nothing comes out but the errors that are meant to."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Refusals = tuple[type[Exception], ...]


@dataclass(frozen=True)
class Target:
    """One input of the project. ``run`` raises what nobody should see; ``seeds`` are good."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    run: Callable[[bytes], bool]
    """Whether the input was taken; False where it was refused as it should be."""


@dataclass(frozen=True)
class Part:
    """A file that the fuzzer writes: ``seed`` is a good one, as the fuzzer sees it."""

    file: str
    seed: bytes
    spell: Callable[[bytes], bytes] = bytes
    """The file's content; checksums go here, which would hide everything behind them."""


@dataclass(frozen=True)
class Folder:
    """A folder of good files, of which one is what the fuzzer makes of it.

    An input's first byte chooses the part, the rest is its content. ``seal`` has the last word
    over all files, for checksums that one file has of another.
    """

    files: Mapping[str, bytes]
    parts: Sequence[Part]
    open: Callable[[Path], object]
    refusals: Refusals
    seal: Callable[[Mapping[str, bytes]], Mapping[str, bytes]] = dict

    def seeds(self) -> list[bytes]:
        """Every part as it should be."""
        return [bytes([index]) + part.seed for index, part in enumerate(self.parts)]

    def run(self, data: bytes) -> bool:
        """Open the folder with one file in another state. Raises what is no refusal."""
        if not data:
            return False
        part = self.parts[data[0] % len(self.parts)]
        path = Path(tempfile.mkdtemp(prefix="fuzz"))
        try:
            files = self.seal({**self.files, part.file: part.spell(data[1:])})
            for name, content in files.items():
                (path / name).write_bytes(content)
            return is_taken(lambda: self.open(path), self.refusals)
        finally:
            shutil.rmtree(path)


def folder_target(folder: Callable[[], Folder]) -> Target:
    """The target with the name of a function that makes its folder, once, when it is needed."""
    return Target(folder.__name__, lambda: folder().seeds(), lambda data: folder().run(data))


def parts_of(files: Mapping[str, bytes], *names: str) -> tuple[Part, ...]:
    """These files as they lie; all of them where none is named."""
    return tuple(Part(name, files[name]) for name in names or files)


def is_taken(attempt: Callable[[], object], refusals: Refusals) -> bool:
    """Whether ``attempt`` ends without a refusal, which must say why."""
    try:
        attempt()
    except refusals as error:
        refusal = error
    else:
        return True
    assert str(refusal), f"{type(refusal).__name__} says nothing"
    return False
