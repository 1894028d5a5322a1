"""The directory of a fine-tuned task: verified when opened, written whole or not at all.

task.json           what it is, and which decoder it needs (weights/task_description.py)
head.safetensors    special.weight (3, C) unless the last token is read; head.weight, head.bias;
                    for LoRA the two thin matrices of each adapted one (model/lora.py)
trunk/              a checkpoint of ours, if the whole decoder was trained
source.json         where it came from, and the checksum of each file
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from model.config import GPTConfig
from model.heads import TaskHead
from model.lora import LoraConfig
from model.tasks import TaskConfig
from weights.checkpoint import Checkpoint, open_checkpoint, save_checkpoint, stamp
from weights.directory import named_problems, new_directory, write_object
from weights.integrity import CHECKSUMS, checksums, damages
from weights.stored import (
    SAFETENSORS_DTYPES,
    STORED_DTYPES,
    CheckpointError,
    StoredTensors,
    read_object,
    tensor_problems,
)
from weights.task_description import (
    HEAD_BIAS,
    HEAD_WEIGHT,
    SPECIAL,
    TaskDescription,
    Train,
)
from weights.writing import Progress, nonfinite_problems, write_safetensors

HEAD_FILE = "head.safetensors"
TRUNK = "trunk"

_HASH_LEN = 16


@dataclass(frozen=True)
class Task:
    """A verified task. Tensors are memory-mapped: the files must stay as they are."""

    path: Path
    description: TaskDescription
    special: Tensor | None
    """Embeddings of start, delimiter and extract, (3, C): the ids behind the vocabulary.

    None where the last token is read instead."""
    head: TaskHead
    adapters: Mapping[str, Tensor]
    """``h.{i}.{matrix}.lora_a`` and ``.lora_b``, as stored; of LoRA only."""
    own_trunk: Checkpoint | None
    """The decoder that was trained along, if it was."""
    weights_hash: str
    """The first 16 hex digits of the sha256 of head.safetensors."""
    source: Mapping[str, Any]
    """Origin and hashes, as source.json has them."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything of head.safetensors, by name; the head in float32."""
        special = {} if self.special is None else {SPECIAL: self.special}
        head = {HEAD_WEIGHT: self.head.weight, HEAD_BIAS: self.head.bias}
        return {**special, **head, **self.adapters}


@dataclass(frozen=True, slots=True)
class TrainedTask:
    """What fine-tuning hands over to be saved.

    ``tensors`` are those of head.safetensors. Of a decoder that was trained along come
    ``trunk_tensors`` and the ``vocabulary``, a directory or files; of another one the hash.
    """

    name: str
    config: TaskConfig
    train: Train
    tensors: Mapping[str, Tensor]
    trunk_config: GPTConfig
    trunk_hash: str = ""
    lora: LoraConfig | None = None
    trunk_tensors: Mapping[str, Tensor] | None = None
    vocabulary: Path | Iterable[Path] | None = None

    def description(self, trunk_hash: str) -> TaskDescription:
        """What task.json will say. Raises CheckpointError."""
        return TaskDescription(
            self.name, self.config, self.train, trunk_hash, self.trunk_config, self.lora
        )


def is_task(path: Path) -> bool:
    """Whether ``path`` is meant to be the directory of a task."""
    return (path / "task.json").exists()


def open_task(path: Path, trunk: Checkpoint | None) -> Task:
    """Open a task that runs on ``trunk``, or one that has its own, which takes no notice of it.

    Names, shapes, dtypes, values and checksums are verified, and that ``trunk`` is the one it was
    trained on. Raises CheckpointError listing every problem.
    """
    if not path.exists():
        raise CheckpointError([f"{path} does not exist"])
    if not path.is_dir():
        raise CheckpointError([f"{path} is a file, not a task directory"])
    with named_problems(path):
        description = TaskDescription.from_dict(read_object(path / "task.json"))
        problems: list[str] = []
        own_trunk = _open_trunk(path, description, trunk, problems)
        stored = StoredTensors([path / HEAD_FILE])
        source = _verified_source(path, description, stored, problems)
        tensors = _computable(stored)
        problems += nonfinite_problems(tensors, Progress(None, 0))
        if problems:
            raise CheckpointError(problems)
        head = (tensors.pop(HEAD_WEIGHT).float(), tensors.pop(HEAD_BIAS).float())
        return Task(
            path=path,
            description=description,
            special=tensors.pop(SPECIAL, None),
            head=TaskHead(description.config, *head),
            adapters=tensors,
            own_trunk=own_trunk,
            weights_hash=source["model_sha256"][:_HASH_LEN],
            source=source,
        )


def save_task(dest: Path, task: TrainedTask, source: Mapping[str, Any]) -> None:
    """Write ``dest``, which must not exist.

    Everything is verified, written under a temporary name and read back, as a checkpoint is.
    Raises CheckpointError listing every problem; then nothing is left behind.
    """
    with named_problems(dest):
        if dest.exists() or dest.is_symlink():
            raise CheckpointError(["exists already"])
        expected = task.description(task.trunk_hash).shapes()
        if problems := _given_problems(expected, task):
            raise CheckpointError(problems)
        with new_directory(dest) as temporary:
            ordered = {name: task.tensors[name] for name in expected}
            digest = write_safetensors(temporary / HEAD_FILE, ordered, Progress(None, 0))
            description = task.description(_write_trunk(temporary / TRUNK, task, source))
            write_object(temporary / "task.json", description.to_dict())
            written = {CHECKSUMS: checksums(temporary, ("task.json", HEAD_FILE))}
            write_object(temporary / "source.json", {**source, **stamp(digest), **written})


def _given_problems(expected: Mapping[str, tuple[int, ...]], task: TrainedTask) -> list[str]:
    shapes = {name: tuple(tensor.shape) for name, tensor in task.tensors.items()}
    dtypes = {name: STORED_DTYPES.get(t.dtype, str(t.dtype)) for name, t in task.tensors.items()}
    problems = tensor_problems(expected, shapes, dtypes)
    if (task.train == "full") != (task.trunk_tensors is not None):
        found = "are missing" if task.trunk_tensors is None else f"came, train is {task.train}"
        problems.append(f"the trunk's tensors {found}")
    return problems + nonfinite_problems(task.tensors, Progress(None, 0))


def _write_trunk(dest: Path, task: TrainedTask, source: Mapping[str, Any]) -> str:
    """Write it if it was trained along. Its hash."""
    if task.trunk_tensors is None:
        return task.trunk_hash
    return save_checkpoint(
        dest, task.trunk_config, task.trunk_tensors, task.vocabulary, source
    ).weights_hash


def _open_trunk(
    path: Path, description: TaskDescription, trunk: Checkpoint | None, problems: list[str]
) -> Checkpoint | None:
    """Its own trunk, where it has one; whether the right one is there, in ``problems``."""
    own_trunk = None
    if description.train == "full":
        try:
            own_trunk = trunk = open_checkpoint(path / TRUNK)
        except CheckpointError as error:
            problems += error.problems
            return None
    wanted = description.trunk_hash
    if trunk is None:
        problems.append(f"it needs the decoder that it was trained on, weights {wanted!r}")
    elif trunk.weights_hash != wanted:
        found = f"{trunk.path} has {trunk.weights_hash!r}"
        problems.append(f"it was trained on a decoder with weights {wanted!r}, {found}")
    elif trunk.config != description.trunk_config:
        problems.append(f"task.json: the trunk's config is not that of {trunk.path}")
    return own_trunk


def _computable(stored: StoredTensors) -> dict[str, Tensor]:
    """All but tensors of dtypes that are a problem anyway: torch does not compute with some."""
    if stored.problems:
        return {}
    supported = SAFETENSORS_DTYPES.values()
    return {name: stored.load(name) for name in stored.owners if stored.dtype(name) in supported}


def _verified_source(
    path: Path, description: TaskDescription, stored: StoredTensors, problems: list[str]
) -> dict[str, Any]:
    """source.json; what is wrong with it, with head.safetensors or its tensors, in ``problems``."""
    found = [*stored.problems]
    source: dict[str, Any] = {}
    try:
        source = read_object(path / "source.json")
        if not isinstance(source.get("model_sha256"), str):
            found.append("source.json has no model_sha256")
        if CHECKSUMS not in source:
            found.append(f"source.json has no {CHECKSUMS}")
    except CheckpointError as error:
        found += error.problems
    if not stored.problems:
        shapes = {name: stored.shape(name) for name in stored.owners}
        dtypes = {name: stored.dtype(name) for name in stored.owners}
        found += tensor_problems(description.shapes(), shapes, dtypes)
    if not found:  # otherwise it is known to be damaged, and how
        found += damages(path, source, HEAD_FILE)
    problems += found
    return source
