"""task.json: what a fine-tuned task is, and which decoder it needs.

{"format": "gpt2-server-task", "format_version": 1, "name", "task": TaskConfig, "train",
"trunk": {"weights_hash", "config": GPTConfig}, "lora": LoraConfig or null}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from model.config import ConfigError, GPTConfig
from model.heads import head_shape
from model.lora import LoraConfig, adapter_shapes
from model.tasks import NUM_SPECIAL, TaskConfig
from weights.stored import CheckpointError, size_problem

FORMAT = "gpt2-server-task"
FORMAT_VERSION = 1
SPECIAL = "special.weight"
HEAD_WEIGHT = "head.weight"
HEAD_BIAS = "head.bias"

Train = Literal["full", "lora", "head"]

TRAINS: tuple[Train, ...] = get_args(Train)

Read = TypeVar("Read")

# Ten times the layers of the largest; to list the tensors of many more would take forever.
_MAX_LAYERS = 512
_NAMES = ("name", "task", "train", "trunk", "lora")


@dataclass(frozen=True, slots=True)
class TaskDescription:
    """A task apart from its numbers. Raises CheckpointError naming all that does not go together.

    ``train`` says what was trained beside the head and the three embeddings: nothing else, thin
    matrices beside the decoder's (``lora``), or all of it. ``trunk_hash`` is the ``weights_hash``
    of the decoder that is needed, its own where all was trained.
    """

    name: str
    config: TaskConfig
    train: Train
    trunk_hash: str
    trunk_config: GPTConfig
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        problems = []
        if not isinstance(self.name, str) or not self.name:
            problems.append(f"name must be a text that is not empty, got {self.name!r}")
        if self.train not in TRAINS:
            problems.append(f"train must be one of {', '.join(TRAINS)}, got {self.train!r}")
        elif (self.train == "lora") != (self.lora is not None):
            found = "is missing" if self.lora is None else f"is there, but train is {self.train}"
            problems.append(f"lora {found}")
        if not isinstance(self.trunk_hash, str):
            problems.append(f"the trunk's weights_hash must be a text, got {self.trunk_hash!r}")
        problems += _size_problems(self.trunk_config)
        limit = self.trunk_config.num_positions
        if self.config.max_len > limit:
            problems.append(f"max_len must be at most {limit}, got {self.config.max_len}")
        if problems:
            raise CheckpointError(problems)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every tensor of head.safetensors."""
        num_channels = self.trunk_config.num_channels
        shapes: dict[str, tuple[int, ...]] = {}
        if self.config.pooling == "extract":
            shapes[SPECIAL] = (NUM_SPECIAL, num_channels)
        shapes[HEAD_WEIGHT] = head_shape(self.config, num_channels)
        shapes[HEAD_BIAS] = (self.config.num_outputs,)
        if self.lora is not None:
            shapes |= adapter_shapes(self.trunk_config, self.lora)
        return shapes

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as written to task.json."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "task": self.config.to_dict(),
            "train": self.train,
            "trunk": {"weights_hash": self.trunk_hash, "config": self.trunk_config.to_dict()},
            "lora": None if self.lora is None else self.lora.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TaskDescription:
        """The inverse of :meth:`to_dict`. Raises CheckpointError listing every problem."""
        if problems := _format_problems(values):
            raise CheckpointError(problems)
        trunk = values["trunk"]
        config = _read("task", TaskConfig.from_dict, values["task"], problems)
        trunk_config = _read("trunk", GPTConfig.from_dict, trunk["config"], problems)
        lora = values["lora"]
        if lora is not None:
            lora = _read("lora", LoraConfig.from_dict, lora, problems)
        if config is None or trunk_config is None or problems:
            raise CheckpointError(problems)
        hash_ = trunk["weights_hash"]
        return cls(values["name"], config, values["train"], hash_, trunk_config, lora)


def _size_problems(config: GPTConfig) -> list[str]:
    found = size_problem(config)
    problems = [f"task.json: trunk: {found}"] if found else []
    if config.num_layers > _MAX_LAYERS:
        problems.append(
            f"task.json: trunk: num_layers must be at most {_MAX_LAYERS}, "
            f"got {config.num_layers!r:.80}"
        )
    return problems


def _format_problems(values: Mapping[str, Any]) -> list[str]:
    if values.get("format") != FORMAT:
        return [f"task.json: format {values.get('format')!r} is not known"]
    if values.get("format_version") != FORMAT_VERSION:
        found = values.get("format_version")
        return [f"task.json: format_version {found!r}, only {FORMAT_VERSION} is known"]
    if missing := [name for name in _NAMES if name not in values]:
        return [f"task.json has no {name}" for name in missing]
    trunk = values["trunk"]
    if not isinstance(trunk, dict) or trunk.keys() != {"weights_hash", "config"}:
        return ["task.json: trunk must be an object of weights_hash and config"]
    return []


def _read(
    name: str, read: Callable[[Any], Read], values: object, problems: list[str]
) -> Read | None:
    """What ``values`` say, or None, and why in ``problems``."""
    try:
        return read(values)
    except ConfigError as error:
        problems += [f"task.json: {name}: {problem}" for problem in error.problems]
    except (AttributeError, TypeError) as error:  # not an object, or values of other kinds
        problems.append(f"task.json: {name}: {error}")
    return None
