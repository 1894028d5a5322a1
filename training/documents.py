"""The texts of a corpus: where they are read from, and which of them are held out."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from training.errors import TrainingError
from training.paragraphs import join_lines

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz")


@dataclass(frozen=True, slots=True)
class Document:
    """One text. ``name`` is its path inside the corpus."""

    name: str
    text: str

    @property
    def names(self) -> frozenset[str]:
        """What it can be called by: file name, stem, the stem up to the first underscore."""
        path = PurePosixPath(self.name)
        return frozenset((path.name, path.stem, path.stem.partition("_")[0]))


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents to train on and documents to score, each in the order of their file names."""

    training: tuple[Document, ...]
    held_out: tuple[Document, ...]

    @property
    def sha256(self) -> str:
        """Of every name and text, and of which are held out, in hex."""
        digest = hashlib.sha256(len(self.training).to_bytes(8, "little"))
        for document in (*self.training, *self.held_out):
            for part in (document.name.encode(), document.text.encode()):
                digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()


def read_corpus(path: Path, held_out: Sequence[str], *, is_joined: bool = False) -> Corpus:
    """Read every text at ``path`` (see PretrainConfig) as it is, line ends included.

    With ``is_joined``, the lines of a paragraph are joined (see :func:`join_lines`).
    Raises TrainingError naming everything that is missing, empty or not UTF-8.
    """
    documents, problems = _decode(_read_files(path))
    if not documents and not problems:
        problems.append(f"there is no .txt file in {path}")
    if is_joined:
        documents = [replace(document, text=join_lines(document.text)) for document in documents]
    known = frozenset[str]().union(*(document.names for document in documents))
    problems += [
        f"held-out {name!r} is no document of {path}" for name in held_out if name not in known
    ]
    chosen = [document for document in documents if document.names & frozenset(held_out)]
    kept = [document for document in documents if not document.names & frozenset(held_out)]
    if documents and not kept:
        problems.append("every document is held out, none is left to train on")
    if problems:
        raise TrainingError(problems)
    return Corpus(tuple(kept), tuple(chosen))


def _decode(files: Iterable[tuple[str, bytes]]) -> tuple[list[Document], list[str]]:
    documents, problems = [], []
    for name, content in sorted(files, key=lambda file: (PurePosixPath(file[0]).name, file[0])):
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            problems.append(f"{name} is not UTF-8 at byte {error.start}")
            continue
        if text.strip():
            documents.append(Document(name, text))
        else:
            problems.append(f"{name} is empty")
    return documents, problems


def _read_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names inside the corpus and contents, in any order."""
    if path.is_dir():
        for file in path.rglob("*.txt"):
            yield file.relative_to(path).as_posix(), file.read_bytes()
    elif not path.is_file():
        raise TrainingError([f"there is no data at {path}"])
    elif path.name.endswith(_ARCHIVES):
        yield from _read_archive(path)
    elif path.suffix == ".txt":
        yield path.name, path.read_bytes()
    else:
        raise TrainingError(
            [
                f"data must be a directory, a .txt file or an archive "
                f"({', '.join(_ARCHIVES)}), got {path}"
            ]
        )


def _read_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """Nothing is unpacked to the disk."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.name.endswith(".txt") else None
                if content is not None:
                    yield member.name, content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise TrainingError([f"{path} is not a whole archive: {error}"]) from error
