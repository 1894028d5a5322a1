"""Our checkpoint directory: verified when opened, memory-mapped, written whole or not at all.

config.json         {"format": "gpt2-server", "format_version": 1, "config": GPTConfig}
model.safetensors   the decoder's own names, matrices (out, in)
source.json         where it came from, and the checksum of each file
tokenizer.json ...  the vocabulary files, as they came
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from model.config import ConfigError, GPTConfig
from model.tokenizer import VOCABULARY_FILES
from weights.directory import named_problems, new_directory, write_bytes, write_object
from weights.formats.foreign import NO_HINTS, ForeignCheckpoint, Hints
from weights.formats.hf_files import unread_problems
from weights.formats.hf_gpt2 import read_hf_gpt2
from weights.formats.known import read_foreign
from weights.formats.tf_gpt2 import is_tf_gpt2
from weights.integrity import CHECKSUMS, checksums, damages
from weights.stored import (
    SAFETENSORS_DTYPES,
    CheckpointError,
    StoredTensors,
    expected_shapes,
    file_sha256,
    read_object,
    tensor_problems,
)
from weights.vocabulary import vocabulary_files
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
_DESCRIBING_FILES = (
    *("config.json", "generation_config.json", "hparams.json"),
    *VOCABULARY_FILES,
)


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

    Names, shapes and dtypes are verified; and the checksums of our own directory, or that every
    value of another is a number. Raises CheckpointError listing every problem. No pickle is opened.
    """
    if not path.exists():
        raise CheckpointError([f"{path} does not exist"])
    if not path.is_dir():
        raise CheckpointError([f"{path} is a file, not a checkpoint directory"])
    with named_problems(path):
        if is_tf_gpt2(path):
            raise CheckpointError(
                ["this is OpenAI's TensorFlow layout, which `gpt2-server convert` reads"]
            )
        if not (path / "config.json").exists():
            raise CheckpointError(["config.json is missing", *unread_problems(path)])
        values = read_object(path / "config.json")
        if "format" in values:
            return _open_own(path, values)
        foreign = read_hf_gpt2(path)
        if problems := nonfinite_problems(foreign.tensors, Progress(None, 0)):
            raise CheckpointError(problems)
        return _from_foreign(path, foreign)


def open_source(path: Path, hints: Hints = NO_HINTS) -> Checkpoint:
    """Open what ``convert`` takes: our own directory, or any layout that there is a reader for.

    More is opened here than is served: a pickle's tensors too, and nothing else of it.
    Raises CheckpointError listing every problem.
    """
    if not path.exists():
        raise CheckpointError([f"{path} does not exist"])
    with named_problems(path):
        config = path / "config.json"
        if config.exists() and "format" in (values := read_object(config)):
            return _open_own(path, values)
        return _from_foreign(path, read_foreign(path, hints))


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
    with named_problems(dest):
        if dest.exists() or dest.is_symlink():
            raise CheckpointError(["exists already"])
        told = Progress(progress, 3 * sum(tensor.nbytes for tensor in tensors.values()))
        problems = _given_problems(config, tensors) + nonfinite_problems(tensors, told)
        if problems:
            raise CheckpointError(problems)
        # In one order, so that the same weights have the same hash wherever they came from.
        ordered = {name: tensors[name] for name in expected_shapes(config, len(tensors))}
        with new_directory(dest) as temporary:
            digest = write_safetensors(temporary / "model.safetensors", ordered, told)
            for file in _vocabulary_files(vocabulary):
                write_bytes(temporary / file.name, file.read_bytes())
            head = {"format": FORMAT, "format_version": FORMAT_VERSION}
            write_object(temporary / "config.json", {**head, "config": config.to_dict()})
            names = sorted(file.name for file in temporary.iterdir())
            stamp = _stamp(digest) | {CHECKSUMS: checksums(temporary, names)}
            write_object(temporary / "source.json", {**source, **stamp})
    return open_checkpoint(dest)


def _open_own(path: Path, values: Mapping[str, Any]) -> Checkpoint:
    problems, config = own_config(values)
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
    if not problems:  # otherwise it is known to be damaged, and how
        problems += damages(path, source)
    if problems or config is None:
        raise CheckpointError(problems)
    tensors = {name: stored.load(name) for name in stored.owners}
    return Checkpoint(path, config, tensors, source["model_sha256"][:_HASH_LEN], source)


def own_config(values: Mapping[str, Any]) -> tuple[list[str], GPTConfig | None]:
    """The problems of a config.json of ours, and what it says, if that can be read."""
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
    # Beside a file that was named alone, anything can lie.
    others = _DESCRIBING_FILES if path.is_dir() else foreign.config_files
    folder = foreign.directory
    present = [name for name in others if (folder / name).is_file()]
    hashes = {name: file_sha256(folder / name) for name in (*foreign.weight_files, *present)}
    source: dict[str, Any] = {"origin": str(path), "format": foreign.format, "sha256": hashes}
    if foreign.changes:
        source["changes"] = [*foreign.changes]
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
        return vocabulary_files(vocabulary)
    files = list(vocabulary)
    odd = [file.name for file in files if file.name not in VOCABULARY_FILES]
    if odd:
        raise CheckpointError([f"{name} is not a vocabulary file" for name in odd])
    return files


def _stamp(digest: str) -> dict[str, Any]:
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
