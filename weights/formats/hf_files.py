"""Which files of a Hugging Face directory have the weights: whole, or shards with an index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from weights.formats.torch_pickle import read_pickled_tensors
from weights.stored import CheckpointError, StoredTensors, TensorSource, read_object


@dataclass(frozen=True)
class Layout:
    """How transformers names the files of one kind, and who opens them."""

    whole: str
    index: str
    shards: str
    open: Callable[[Iterable[Path]], TensorSource]

    @property
    def suffix(self) -> str:
        """The ending that every file of this kind has."""
        return PurePosixPath(self.whole).suffix

    def is_in(self, path: Path) -> bool:
        """Whether ``path`` has such weights, or some of them."""
        names = (self.whole, self.index, self.shards)
        return any(any(path.glob(name)) for name in names)


SAFETENSORS = Layout(
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    StoredTensors,
)
PICKLES = Layout(
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model-*-of-*.bin",
    read_pickled_tensors,
)

_READ_BY_CONVERT = (PICKLES.whole, PICKLES.shards, "*.pt")
_NEVER_READ = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_UNKNOWN = ("*.h5", "*.msgpack", "*.gguf")


def has_hf_weights(path: Path) -> bool:
    """Whether there are weights under one of transformers' own names."""
    return SAFETENSORS.is_in(path) or PICKLES.is_in(path)


def open_weights(path: Path, with_pickles: bool) -> tuple[tuple[str, ...], TensorSource, list[str]]:
    """The files, their tensors, and what is wrong with the files or against the index.

    safetensors are preferred. Raises CheckpointError, where no files are found.
    """
    layout = PICKLES if with_pickles and not SAFETENSORS.is_in(path) else SAFETENSORS
    if not layout.is_in(path):
        raise CheckpointError([f"{SAFETENSORS.whole} is missing", *unread_problems(path)])
    files: tuple[str, ...] = (layout.whole,)
    weight_map: Mapping[str, str] | None = None
    if not (path / layout.whole).exists():
        files, weight_map = _read_index(path, layout)
    stored = layout.open(path / name for name in files)
    problems = list(stored.problems)
    if weight_map is not None and not problems:
        problems += _index_problems(layout.index, weight_map, stored)
    return files, stored, problems


def unread_problems(path: Path) -> list[str]:
    """The weights in ``path`` that are in no format that is served, each by name."""
    by_convert = {file.name for pattern in _READ_BY_CONVERT for file in path.glob(pattern)}
    pickles = [file.name for pattern in _NEVER_READ for file in sorted(path.glob(pattern))]
    others = [file.name for pattern in _UNKNOWN for file in sorted(path.glob(pattern))]
    return [
        f"{name} is a pickle, which can run code and is never served: "
        + (
            "gpt2-server convert makes safetensors of it"
            if name in by_convert
            else "save the model as safetensors"
        )
        for name in pickles
    ] + [f"{name} is not supported, only safetensors is" for name in others]


def _read_index(path: Path, layout: Layout) -> tuple[tuple[str, ...], Mapping[str, str]]:
    weight_map = read_object(path / layout.index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError([f"{layout.index} has no weight_map"])
    odd = [shard for shard in weight_map.values() if not _is_plain_name(shard, layout.suffix)]
    if odd:
        names = dict.fromkeys(f"{shard!r:.80}" for shard in odd)
        raise CheckpointError([f"{layout.index} names {name}, which is no shard" for name in names])
    found = sorted(file.name for file in path.glob(layout.shards))
    unnamed = [name for name in found if name not in weight_map.values()]
    if unnamed:
        raise CheckpointError([f"{name} is not named in {layout.index}" for name in unnamed])
    return tuple(dict.fromkeys(weight_map.values())), weight_map


def _is_plain_name(shard: object, suffix: str) -> bool:
    """Whether a shard lies in the directory itself: an index must not lead out of it."""
    return (
        isinstance(shard, str)
        and shard.endswith(suffix)
        and PurePosixPath(shard).name == shard
        and not {"\\", "\0"} & set(shard)
    )


def _index_problems(index: str, weight_map: Mapping[str, str], stored: TensorSource) -> list[str]:
    problems = [
        f"tensor {name} is not in {shard}, where {index} puts it"
        for name, shard in weight_map.items()
        if stored.owners.get(name) != shard
    ]
    return problems + [
        f"tensor {name} of {owner} is not named in {index}"
        for name, owner in stored.owners.items()
        if name not in weight_map
    ]
