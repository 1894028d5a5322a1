"""Our checkpoint directory: verified when opened, memory-mapped, written whole or not at all.

config.json         {"format": "gpt2-server", "format_version": 1, "config": GPTConfig},
                    and how the matrices are quantised, if they are (weights/quantised.py)
model.safetensors   the decoder's own names, matrices (out, in)
source.json         where it came from, and the checksum of each file
tokenizer.json ...  the vocabulary files, as they came
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from model.config import ConfigError, GPTConfig
from model.quantised import QuantisedMatrix
from model.tokenizer import VOCABULARY_FILES
from weights.directory import named_problems, new_directory, write_bytes, write_object
from weights.formats.foreign import NO_HINTS, ForeignCheckpoint, Hints
from weights.formats.hf_files import unread_problems
from weights.formats.hf_gpt2 import read_hf_gpt2
from weights.formats.known import read_foreign
from weights.formats.openai_gpt import is_openai_gpt
from weights.formats.tf_gpt2 import is_tf_gpt2
from weights.integrity import CHECKSUMS, checksums, damages
from weights.quantised import (
    PACKED,
    QUANTIZATION,
    SCALES,
    described,
    load_matrices,
    quantised_shapes,
    read_method,
    stored_tensors,
)
from weights.stored import (
    STORED_DTYPES,
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
    "open_plain_checkpoint",
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
    """``GPT.named_parameters()`` names -> tensors of float32, bfloat16 or float16.

    Without those of ``matrices``, and without the embedding where a quantised head is tied to it.
    """
    weights_hash: str
    """The first 16 hex digits of the sha256 of the weights' file (of all shards' sha256)."""
    source: Mapping[str, Any]
    """Origin, format and hashes, as source.json has them."""
    matrices: Mapping[str, QuantisedMatrix] = field(default_factory=dict)
    """The quantised matrices by the names of their weights; the head is ``lm_head.weight``."""
    quantization: str | None = None
    """The method, ``int8`` or ``int4``, if there are any."""

    @property
    def num_parameters(self) -> int:
        """Parameters, counting a tied head once."""
        return self.config.num_parameters


def open_checkpoint(path: Path) -> Checkpoint:
    """Open our own directory, or a Hugging Face GPT-2 or GPT one, whose matrices are copied.

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
        if is_openai_gpt(path):
            raise CheckpointError(
                ["this is OpenAI's layout of the first GPT, which `gpt2-server convert` reads"]
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


def open_plain_checkpoint(path: Path) -> Checkpoint:
    """:func:`open_checkpoint`, for those who need the weights themselves."""
    checkpoint = open_checkpoint(path)
    if checkpoint.quantization:
        raise CheckpointError([f"{path}: {quantised_for_good(checkpoint.quantization)}"])
    return checkpoint


def quantised_for_good(method: str) -> str:
    """Why nothing else can be made of a quantised checkpoint."""
    return (
        f"its weights are quantised ({method}), and what they were before cannot be had "
        f"from them: take the checkpoint that it was made of"
    )


def save_checkpoint(
    dest: Path,
    config: GPTConfig,
    tensors: Mapping[str, torch.Tensor],
    vocabulary: Path | Iterable[Path] | None,
    source: Mapping[str, Any],
    progress: Callable[[int, int], None] | None = None,
    matrices: Mapping[str, QuantisedMatrix] | None = None,
    quantization: str | None = None,
) -> Checkpoint:
    """Write ``dest``, which must not exist, and open it.

    ``matrices`` are what ``quantization`` made of the tensors that are not among ``tensors``.
    ``vocabulary`` is a directory, whose vocabulary files are copied, or the files themselves.
    Everything is verified (names, shapes, dtypes, no NaN), written under a temporary name beside
    ``dest``, read back bit for bit, and renamed; ``progress`` is told (done_bytes, total_bytes)
    over the three passes. Raises CheckpointError listing every problem;
    then nothing is left behind.
    """
    with named_problems(dest):
        if dest.exists() or dest.is_symlink():
            raise CheckpointError(["exists already"])
        stored = stored_tensors(tensors, matrices) if matrices else tensors
        told = Progress(progress, 3 * sum(tensor.nbytes for tensor in stored.values()))
        problems = _given_problems(config, quantization, stored)
        problems += nonfinite_problems(stored, told)
        if problems:
            raise CheckpointError(problems)
        # In one order, so that the same weights have the same hash wherever they came from.
        names = [*stored] if matrices else expected_shapes(config, len(stored))
        ordered = {name: stored[name] for name in names}
        with new_directory(dest) as temporary:
            digest = write_safetensors(temporary / "model.safetensors", ordered, told)
            for file in _vocabulary_files(vocabulary):
                write_bytes(temporary / file.name, file.read_bytes())
            write_object(temporary / "config.json", _config_values(config, quantization))
            files = sorted(file.name for file in temporary.iterdir())
            stamps = stamp(digest) | {CHECKSUMS: checksums(temporary, files)}
            write_object(temporary / "source.json", {**source, **stamps})
    return open_checkpoint(dest)


def _open_own(path: Path, values: Mapping[str, Any]) -> Checkpoint:
    problems, config = own_config(values)
    method, unread = (None, []) if config is None else read_method(values, config)
    problems += unread
    source: dict[str, Any] = {}
    try:
        source = read_object(path / "source.json")
        if not isinstance(source.get("model_sha256"), str):
            problems.append("source.json has no model_sha256")
    except CheckpointError as error:
        problems += error.problems
    stored = StoredTensors([path / "model.safetensors"])
    problems += stored.problems
    if config is not None and not unread and not stored.problems:
        problems += _stored_problems(config, method, stored)
    if not problems:  # otherwise it is known to be damaged, and how
        problems += damages(path, source)
    if problems or config is None:
        raise CheckpointError(problems)
    weights_hash = source["model_sha256"][:_HASH_LEN]
    plain = [name for name in stored.owners if not name.endswith((PACKED, SCALES))]
    tensors = {name: stored.load(name) for name in plain}
    if method is None:
        return Checkpoint(path, config, tensors, weights_hash, source)
    matrices = load_matrices(config, method, stored.load, len(stored.owners))
    return Checkpoint(path, config, tensors, weights_hash, source, matrices, method)


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


def _config_values(config: GPTConfig, quantization: str | None) -> dict[str, Any]:
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "config": config.to_dict()}
    return head if quantization is None else {**head, QUANTIZATION: described(quantization)}


def _stored_problems(config: GPTConfig, method: str | None, stored: StoredTensors) -> list[str]:
    try:
        expected, only = _expected(config, method, len(stored.owners))
    except CheckpointError as error:
        return error.problems
    shapes = {name: stored.shape(name) for name in stored.owners}
    dtypes = {name: stored.dtype(name) for name in stored.owners}
    return tensor_problems(expected, shapes, dtypes, only)


def _expected(
    config: GPTConfig, method: str | None, num_stored: int
) -> tuple[Mapping[str, tuple[int, ...]], Mapping[str, str]]:
    """Shapes, and the dtypes of the tensors that can have only one."""
    if method is None:
        return expected_shapes(config, num_stored), {}
    return quantised_shapes(config, method, num_stored)


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


def _given_problems(
    config: GPTConfig, method: str | None, tensors: Mapping[str, torch.Tensor]
) -> list[str]:
    expected, only = _expected(config, method, len(tensors))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    dtypes = {
        name: STORED_DTYPES.get(tensor.dtype, str(tensor.dtype)) for name, tensor in tensors.items()
    }
    return tensor_problems(expected, shapes, dtypes, only)


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


def stamp(digest: str) -> dict[str, Any]:
    """Which weights, by which version, when: what source.json says beside the origin."""
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
