"""Tasks beside the decoder: whose trunk they run through, and what stands behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import msgspec
import torch
from torch import Tensor

from engine.errors import EngineFailed
from engine.messages import TaskInfo
from engine.networks import Weights
from model.config import GPTConfig
from model.heads import TaskHead
from model.lora import Adapter
from model.network import Network
from model.slot_cache import SlotCache
from model.tasks import MIN_LEN, NUM_SPECIAL

SHARED = 0
"""The trunk of the served decoder; those that tasks bring along come after it."""


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A task as it lies on disk. ``special`` (3, C) are the embeddings of its three tokens, if it
    has them; ``trunk`` is the decoder that it brings along, or None, and ``adapter`` what it has
    beside the matrices of the served one, if anything."""

    name: str
    head: TaskHead
    special: Tensor | None
    trunk: Weights | None
    train: str
    weights_hash: str
    source: str
    adapter: Adapter | None = None


@dataclass(frozen=True, slots=True)
class Trunk:
    """A network and its cache. Slots have the same numbers in every trunk."""

    network: Network
    cache: SlotCache


@dataclass(frozen=True, slots=True)
class ServedTask:
    """A head, the index of the trunk that its hidden states come from, and that of its adapter."""

    head: TaskHead
    trunk: int
    adapter: int | None = None


def served(tasks: Sequence[LoadedTask]) -> Mapping[str, ServedTask]:
    """The tasks by name; each own trunk has the next index, and so has each adapter."""
    trunks, indices = count(SHARED + 1), count()
    return {
        task.name: ServedTask(
            task.head,
            SHARED if task.trunk is None else next(trunks),
            None if task.adapter is None else next(indices),
        )
        for task in tasks
    }


def adapters(tasks: Sequence[LoadedTask]) -> list[Adapter]:
    """Those there are, in the order of their indices."""
    return [task.adapter for task in tasks if task.adapter is not None]


def special_embeddings(tasks: Sequence[LoadedTask], num_channels: int) -> Tensor | None:
    """Three rows for each task, those of tasks without a use for them zero; None without tasks.

    (3 * num_tasks, C): row i is the embedding of the id vocab_size + i.
    """
    if not tasks:
        return None
    nothing = torch.zeros(NUM_SPECIAL, num_channels)
    return torch.cat(
        [
            task.special.float()
            if task.special is not None and task.special.shape == nothing.shape
            else nothing
            for task in tasks
        ]
    )


@dataclass(frozen=True, slots=True)
class OwnTrunk:
    """A decoder that a task brings along, and the positions that it needs."""

    weights: Weights
    num_positions: int


def own_trunks(tasks: Sequence[LoadedTask], infos: Sequence[TaskInfo]) -> list[OwnTrunk]:
    """Those there are, in the order of their indices."""
    return [
        OwnTrunk(task.trunk, info.max_len)
        for task, info in zip(tasks, infos, strict=True)
        if task.trunk is not None
    ]


def task_infos(config: GPTConfig, context_len: int, tasks: Sequence[LoadedTask]) -> list[TaskInfo]:
    """What is said of the tasks; raises EngineFailed where a name or a length is impossible."""
    names = [task.name for task in tasks]
    problems = [
        f"task names must differ, got {name!r} more than once"
        for name in sorted(set(names))
        if names.count(name) > 1
    ]
    problems += [
        f"max_context must be at least {MIN_LEN} for the task {name!r}, got {context_len}"
        for name in names
        if context_len < MIN_LEN
    ]
    if problems:
        raise EngineFailed(problems)
    return [
        TaskInfo(
            name=task.name,
            config=task.head.config.to_dict(),
            first_special_id=config.vocab_size + NUM_SPECIAL * index,
            max_len=min(task.head.config.max_len, context_len),
            train=task.train,
            weights_hash=task.weights_hash,
            fingerprint="",
            source=task.source,
        )
        for index, task in enumerate(tasks)
    ]


def with_fingerprints(
    infos: Sequence[TaskInfo], fingerprint: Callable[[str], str]
) -> tuple[TaskInfo, ...]:
    """Each with the name of all that its answers depend on, made from its hash."""
    return tuple(
        msgspec.structs.replace(info, fingerprint=fingerprint(info.weights_hash)) for info in infos
    )
