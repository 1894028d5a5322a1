"""Which files of a repository are needed, and what its list of files already says against it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from model.vocabulary import VOCABULARY_FILES

WHOLE_SAFETENSORS = "model.safetensors"
WHOLE_PICKLE = "pytorch_model.bin"
_INDEX = ".index.json"
_WEIGHTS = (
    WHOLE_SAFETENSORS,
    f"{WHOLE_SAFETENSORS}{_INDEX}",
    WHOLE_PICKLE,
    f"{WHOLE_PICKLE}{_INDEX}",
)
"""What weights may be found under; the first that is there is taken."""

CONFIG = "config.json"
_GENERATION = "generation_config.json"
_OTHER_WEIGHTS = (
    ".bin",
    ".safetensors",
    ".h5",
    ".msgpack",
    ".ot",
    ".onnx",
    ".gguf",
    ".pt",
    ".ckpt",
)
_MAX_LISTED = 5
_MAX_SMALL_BYTES = 64 * 2**20
"""More than any configuration, index or vocabulary has."""


@dataclass(frozen=True)
class RepoFile:
    """One file of a repository, as the hub lists it."""

    name: str
    size: int
    """Bytes; 0 where the hub does not say."""
    sha256: str | None = None
    """Of large files only, in hex."""


Files = Mapping[str, RepoFile]


def list_problems(files: Files) -> list[str]:
    """Why nothing can be made of a repository with these files."""
    problems = [
        f"the list of files has {name!r}, which leads out of the repository"
        for name in files
        if not _is_inside(name)
    ]
    if CONFIG not in files:
        problems.append(f"{CONFIG} is missing")
    if weights_entry(files) is None:
        problems.append(_no_weights(files))
    return problems + [
        f"{name} has {files[name].size:,} bytes, at most {_MAX_SMALL_BYTES:,} are read"
        for name in (*configs(files), *vocabulary(files))
        if not small([name], files)
    ]


def _is_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and not {"\\", "\0"} & set(name)


def _no_weights(names: Collection[str]) -> str:
    others = [name for name in names if name.endswith(_OTHER_WEIGHTS)]
    more = f" and {len(others) - _MAX_LISTED} more" if len(others) > _MAX_LISTED else ""
    found = f", only {', '.join(others[:_MAX_LISTED])}{more}" if others else ""
    return f"there is neither {WHOLE_SAFETENSORS} nor {WHOLE_PICKLE}, whole or in shards{found}"


def weights_entry(names: Collection[str]) -> str | None:
    """The file that the weights are, or the index of their shards."""
    return next((name for name in _WEIGHTS if name in names), None)


def configs(names: Collection[str]) -> list[str]:
    """The small files that tell whether the rest can be loaded."""
    entry = weights_entry(names)
    wanted = (CONFIG, _GENERATION, *([entry] if entry and entry.endswith(_INDEX) else []))
    return [name for name in wanted if name in names]


def vocabulary(names: Collection[str]) -> list[str]:
    """The files that a tokenizer is built from."""
    return [name for name in VOCABULARY_FILES if name in names]


def small(names: Iterable[str], files: Files) -> list[str]:
    """Those of ``names`` that are no larger than such files are."""
    return [name for name in names if files[name].size <= _MAX_SMALL_BYTES]


def weights(snapshot: Path, files: Files) -> tuple[list[str], list[str]]:
    """The weights' files, and what is wrong with an index, which lies in ``snapshot`` by now."""
    entry = weights_entry(files)
    if entry is None or not entry.endswith(_INDEX):
        return [entry] if entry else [], []
    if not small([entry], files):
        return [], []  # list_problems has said so
    try:
        weight_map = json.loads((snapshot / entry).read_bytes())["weight_map"]
        shards = list(dict.fromkeys(weight_map.values()))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return [], [f"{entry} has no weight_map"]
    ending = PurePosixPath(entry.removesuffix(_INDEX)).suffix
    problems = [] if shards else [f"{entry} names no shard"]
    for shard in shards:
        if not isinstance(shard, str) or "/" in shard or not shard.endswith(ending):
            problems.append(f"{entry} names {shard!r:.80}, which is no shard")
        elif shard not in files:
            problems.append(f"{entry} names {shard:.80}, which is not there")
    return [] if problems else shards, problems
