"""Our checkpoint directory: verified when opened, memory-mapped, written whole or not at all.

config.json         {"format": "gpt2-server", "format_version": 1, "config": GPTConfig}
model.safetensors   the decoder's own names, matrices (out, in)
source.json         where it came from, and the sha256 of each file
tokenizer.json ...  the vocabulary files, as they came
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from model.config import ConfigError, GPTConfig
from model.tokenizer import VOCABULARY_FILES
from weights.formats import hf_gpt2
from weights.formats.foreign import ForeignCheckpoint
from weights.formats.known import read_foreign
from weights.stored import (
    SAFETENSORS_DTYPES,
    CheckpointError,
    StoredTensors,
    expected_shapes,
    file_sha256,
    read_object,
    tensor_problems,
)
from weights.writing import Progress, nonfinite_problems, write_safetensors

__all__ = [
    "FORMAT",
    "Checkpoint",
    "CheckpointError",
    "open_checkpoint",
    "open_source",
    "save_checkpoint",
]

FORMAT = "gpt2-server"
FORMAT_VERSION = 1
_HASH_LEN = 16


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint. Tensors are memory-mapped: the files must stay as they are."""

    path: Path
    config: GPTConfig
    tensors: Mapping[str, torch.Tensor]
    """``GPT.named_parameters()`` names -> tensors of float32, bfloat16 or float16."""
    weights_hash: str
    """The first 16 hex digits of the sha256 of the weights' file (of all shards' sha256)."""
    source: Mapping[str, Any]
    """Origin, format and hashes, as source.json has them."""

    @property
    def num_parameters(self) -> int:
        """Parameters, counting a tied head once."""
        return self.config.num_parameters


def open_checkpoint(path: Path) -> Checkpoint:
    """Open our own directory, or a Hugging Face GPT-2 one, whose matrices are copied.

    Names, shapes and dtypes are verified; values are looked at by conversion only.
    Raises CheckpointError listing every problem. A pickle is never opened.
    """
    if not path.exists():
        raise CheckpointError([f"{path} does not exist"])
    if not path.is_dir():
        raise CheckpointError([f"{path} is a file, not a checkpoint directory"])
    with _prefixed(path):
        if not (path / "config.json").exists():
            raise CheckpointError(["config.json is missing", *hf_gpt2.unread_problems(path)])
        values = read_object(path / "config.json")
        if "format" in values:
            return _open_own(path, values)
        return _from_foreign(path, hf_gpt2.read_hf_gpt2(path))


def open_source(path: Path) -> Checkpoint:
    """Open what ``convert`` takes: our own directory, or any layout that there is a reader for.

    More is opened here than is served: a pickle's tensors too, and nothing else of it.
    Raises CheckpointError listing every problem.
    """
    if not path.exists():
        raise CheckpointError([f"{path} does not exist"])
    with _prefixed(path):
        config = path / "config.json"
        if config.exists() and "format" in (values := read_object(config)):
            return _open_own(path, values)
        return _from_foreign(path, read_foreign(path))


def save_checkpoint(
    dest: Path,
    config: GPTConfig,
    tensors: Mapping[str, torch.Tensor],
    vocabulary: Path | Iterable[Path] | None,
    source: Mapping[str, Any],
    progress: Callable[[int, int], None] | None = None,
) -> Checkpoint:
    """Write ``dest``, which must not exist, and open it.

    ``vocabulary`` is a directory, whose vocabulary files are copied, or the files themselves.
    Everything is verified (names, shapes, dtypes, no NaN), written under a temporary name beside
    ``dest``, read back bit for bit, and renamed; ``progress`` is told (done_bytes, total_bytes)
    over the three passes. Raises CheckpointError listing every problem;
    then nothing is left behind.
    """
    with _prefixed(dest):
        if dest.exists() or dest.is_symlink():
            raise CheckpointError(["exists already"])
        told = Progress(progress, 3 * sum(tensor.nbytes for tensor in tensors.values()))
        problems = _given_problems(config, tensors) + nonfinite_problems(tensors, told)
        if problems:
            raise CheckpointError(problems)
        with _temporary_beside(dest) as temporary:
            digest = write_safetensors(temporary / "model.safetensors", tensors, told)
            for file in _vocabulary_files(vocabulary):
                _write(temporary / file.name, file.read_bytes())
            head = {"format": FORMAT, "format_version": FORMAT_VERSION}
            _write_object(temporary / "config.json", {**head, "config": config.to_dict()})
            _write_object(temporary / "source.json", {**source, **_stamp(digest)})
            _sync(temporary)
            temporary.rename(dest)
            _sync(dest.parent)
    return open_checkpoint(dest)


@contextmanager
def _prefixed(path: Path) -> Iterator[None]:
    """Name the directory once, before the problems; and turn OSError into one line."""
    try:
        yield
    except CheckpointError as error:
        first, *rest = error.problems
        raise CheckpointError([f"{path}: {first}", *rest]) from error
    except OSError as error:
        raise CheckpointError([f"{path}: {error.strerror or error}"]) from error


def _open_own(path: Path, values: Mapping[str, Any]) -> Checkpoint:
    problems, config = _own_config(values)
    source: dict[str, Any] = {}
    try:
        source = read_object(path / "source.json")
        if not isinstance(source.get("model_sha256"), str):
            problems.append("source.json has no model_sha256")
    except CheckpointError as error:
        problems += error.problems
    stored = StoredTensors([path / "model.safetensors"])
    problems += stored.problems
    if config is not None and not stored.problems:
        problems += _stored_problems(config, stored)
    if problems or config is None:
        raise CheckpointError(problems)
    tensors = {name: stored.load(name) for name in stored.owners}
    return Checkpoint(path, config, tensors, source["model_sha256"][:_HASH_LEN], source)


def _own_config(values: Mapping[str, Any]) -> tuple[list[str], GPTConfig | None]:
    if values.get("format") != FORMAT:
        return [f"config.json: format {values.get('format')!r} is not known"], None
    if values.get("format_version") != FORMAT_VERSION:
        found = values.get("format_version")
        return [f"config.json: format_version {found!r}, only {FORMAT_VERSION} is known"], None
    config = values.get("config")
    if not isinstance(config, dict):
        return ["config.json has no config"], None
    try:
        return [], GPTConfig.from_dict(config)
    except ConfigError as error:
        return [f"config.json: {problem}" for problem in error.problems], None
    except TypeError as error:
        return [f"config.json: {error}"], None


def _stored_problems(config: GPTConfig, stored: StoredTensors) -> list[str]:
    try:
        expected = expected_shapes(config, len(stored.owners))
    except CheckpointError as error:
        return error.problems
    shapes = {name: stored.shape(name) for name in stored.owners}
    return tensor_problems(expected, shapes, {name: stored.dtype(name) for name in stored.owners})


def _from_foreign(path: Path, foreign: ForeignCheckpoint) -> Checkpoint:
    others = ("config.json", "generation_config.json", "hparams.json", *VOCABULARY_FILES)
    folder = foreign.directory
    present = [name for name in others if (folder / name).is_file()]
    hashes = {name: file_sha256(folder / name) for name in (*foreign.weight_files, *present)}
    source = {"origin": str(path), "format": foreign.format, "sha256": hashes}
    weights_hash = _combined_hash([hashes[name] for name in foreign.weight_files])
    return Checkpoint(path, foreign.config, foreign.tensors, weights_hash, source)


def _combined_hash(hashes: list[str]) -> str:
    """Of one file its own hash, so that it is the same wherever the file lies."""
    whole = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    return whole[:_HASH_LEN]


def _given_problems(config: GPTConfig, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    return tensor_problems(
        expected_shapes(config, len(tensors)),
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        {
            name: SAFETENSORS_DTYPES.get(tensor.dtype, str(tensor.dtype))
            for name, tensor in tensors.items()
        },
    )


def _vocabulary_files(vocabulary: Path | Iterable[Path] | None) -> list[Path]:
    if vocabulary is None:
        return []
    if isinstance(vocabulary, Path):
        return [vocabulary / name for name in VOCABULARY_FILES if (vocabulary / name).is_file()]
    files = list(vocabulary)
    odd = [file.name for file in files if file.name not in VOCABULARY_FILES]
    if odd:
        raise CheckpointError([f"{name} is not a vocabulary file" for name in odd])
    return files


def _stamp(digest: str) -> dict[str, str]:
    return {
        "model_sha256": digest,
        "written_by": f"{FORMAT} {_version()}",
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version() -> str:
    try:
        return version("gpt2-server")
    except PackageNotFoundError:
        return "unknown"


@contextmanager
def _temporary_beside(dest: Path) -> Iterator[Path]:
    """A new directory on the same file system, removed unless it was renamed."""
    temporary = dest.parent / f".{dest.name}.{secrets.token_hex(4)}.partial"
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_object(path: Path, values: Mapping[str, Any]) -> None:
    _write(path, (json.dumps(values, indent=2) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
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
