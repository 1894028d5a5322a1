"""PretrainConfig: everything that a pretraining run is told, checked before anything is written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from model.config import PRESETS, ConfigError, GPTConfig
from training.errors import TrainingError
from training.optimizer import OPTIMIZERS, OptimizerName

DType = Literal["bfloat16", "float32"]

DTYPES: tuple[DType, ...] = get_args(DType)

DEFAULT_VOCAB_SIZE = 8_192

DEFAULT_SHAPE: Mapping[str, int] = {"num_layers": 8, "num_channels": 256, "num_heads": 4}

_PER_CALL = (
    "out",
    "data",
    "start_from",
    "num_threads",
    "checkpoint_s",
    "checkpoint_steps",
    "resume",
)
"""Fields that may change when a run is continued. Of the data and of the checkpoint that it started
from, the hashes are compared instead."""


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """One pretraining run (objective L1). Raises TrainingError naming every impossible value.

    ``data`` is a .txt file, a directory of them, or a .tar, .tar.gz or .tar.xz that holds them.
    ``held_out`` names the documents that are scored and not trained on: a file name, its stem, or
    the stem up to the first underscore. ``join_lines`` joins the lines of each paragraph, in all of
    them. The decoder is ``size``, a preset, or ``num_layers``, ``num_channels`` and ``num_heads``
    (8, 256 and 4); it has ``window_len`` positions.
    ``start_from`` is a checkpoint to train on instead: its shape, vocabulary and weights.

    ``vocabulary`` is a directory with a tokenizer; without it, a BPE of ``vocab_size`` entries is
    trained on the data. A run takes ``num_steps`` steps of ``batch_tokens`` tokens, or
    ``num_epochs`` passes, or as many steps as, at the speed measured at the start, fit into
    ``max_minutes``. ``accumulation`` cuts the batch of a step into that many parts, which need less
    memory. Attention reaches only ``short_window_len`` tokens in the first ``short_share`` of
    the steps, which is cheaper.

    State is saved every ``checkpoint_s`` seconds, or every ``checkpoint_steps`` steps; where
    ``resume`` is off, a directory with a run in it is refused.
    """

    data: Path
    out: Path
    start_from: Path | None = None
    size: str | None = None
    num_layers: int | None = None
    num_channels: int | None = None
    num_heads: int | None = None
    vocabulary: Path | None = None
    vocab_size: int | None = None
    held_out: tuple[str, ...] = ()
    join_lines: bool = False
    window_len: int = 1_024
    short_window_len: int | None = None
    short_share: float = 0.75
    batch_tokens: int = 4_096
    accumulation: int = 1
    num_steps: int | None = None
    num_epochs: float | None = None
    max_minutes: float | None = None
    optimizer: OptimizerName = "adamw"
    learning_rate: float = 1e-3
    warmup_steps: int = 60
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    dropout: float = 0.0
    seed: int = 0
    dtype: DType = "bfloat16"
    device: str = "cpu"
    num_threads: int | None = None
    checkpoint_s: float = 120.0
    checkpoint_steps: int | None = None
    held_out_steps: int = 250
    resume: bool = True

    def __post_init__(self) -> None:
        problems = [*_value_problems(self), *_choice_problems(self), *_shape_problems(self)]
        if problems:
            raise TrainingError(problems)

    def decoder(self, vocab_size: int, end_of_text_id: int) -> GPTConfig:
        """The network to train, for a vocabulary that is known by now."""
        shape = self._shape()
        return GPTConfig(
            vocab_size=vocab_size,
            num_positions=self.window_len,
            num_channels=shape["num_channels"],
            num_layers=shape["num_layers"],
            num_heads=shape["num_heads"],
            num_inner=4 * shape["num_channels"],
            eos_token_ids=(end_of_text_id,),
            norm_placement="pre" if self.size is None else PRESETS[self.size].norm_placement,
        )

    def _shape(self) -> dict[str, int]:
        """The three numbers, of the preset where there is one, and of the defaults where not."""
        if self.size is not None:
            return {name: getattr(PRESETS[self.size], name) for name in DEFAULT_SHAPE}
        given = {name: getattr(self, name) for name in DEFAULT_SHAPE}
        return {name: DEFAULT_SHAPE[name] if n is None else n for name, n in given.items()}

    @property
    def wanted_vocab_size(self) -> int | None:
        """Entries that the vocabulary must have; None where a given one may have any number."""
        if self.vocab_size is not None or self.vocabulary or self.start_from:
            return self.vocab_size
        return DEFAULT_VOCAB_SIZE

    def identity(self) -> dict[str, Any]:
        """The fields that make this run this run, as plain values; the rest may change."""
        values = {name: value for name, value in asdict(self).items() if name not in _PER_CALL}
        values["vocab_size"] = self.wanted_vocab_size
        if self.start_from is None and self.size is None:
            values |= self._shape()
        values["vocabulary"] = None if self.vocabulary is None else str(self.vocabulary)
        values["held_out"] = sorted(self.held_out)
        return values


_COUNTS = (
    "num_layers",
    "num_channels",
    "num_heads",
    "vocab_size",
    "window_len",
    "short_window_len",
    "batch_tokens",
    "accumulation",
    "num_steps",
    "num_threads",
    "checkpoint_steps",
    "held_out_steps",
)
_POSITIVE = ("num_epochs", "max_minutes", "learning_rate", "grad_clip", "checkpoint_s")
_COUNTS_FROM_ZERO = ("warmup_steps", "seed")
_BELOW_ONE = ("dropout", "short_share")


def _value_problems(config: PretrainConfig) -> Iterator[str]:
    rules = (
        (_COUNTS, "a whole number of at least 1", lambda x: isinstance(x, int) and x >= 1),
        (_POSITIVE, "a number above 0", lambda x: 0 < x < math.inf),
        (
            _COUNTS_FROM_ZERO,
            "a whole number of at least 0",
            lambda x: isinstance(x, int) and x >= 0,
        ),
        (("weight_decay",), "a number of at least 0", lambda x: 0 <= x < math.inf),
        (_BELOW_ONE, "at least 0 and below 1", lambda x: 0 <= x < 1),
    )
    for names, rule, holds in rules:
        for name in names:
            value = getattr(config, name)
            if value is not None and not holds(value):
                yield f"{name} must be {rule}, got {value!r}"


def _choice_problems(config: PretrainConfig) -> Iterator[str]:
    choices = (("optimizer", OPTIMIZERS), ("dtype", DTYPES), ("device", ("cpu", "cuda")))
    for name, known in choices:
        if getattr(config, name) not in known:
            yield f"{name} must be one of {', '.join(known)}, got {getattr(config, name)!r}"
    if config.size is not None and config.size not in PRESETS:
        yield f"size must be one of {', '.join(PRESETS)}, got {config.size!r}"
    if config.start_from is not None:
        own = ("size", *DEFAULT_SHAPE, "vocabulary", "vocab_size")
        for name in (name for name in own if getattr(config, name) is not None):
            yield f"{name} is that of the checkpoint in start_from, got {getattr(config, name)!r}"
    lengths = ("num_steps", "num_epochs", "max_minutes")
    given = [name for name in lengths if getattr(config, name) is not None]
    if len(given) != 1:
        yield f"exactly one of {', '.join(lengths)} must be given, got {len(given)}"


def _shape_problems(config: PretrainConfig) -> Iterator[str]:
    counts = (config.window_len, config.accumulation, config.batch_tokens)
    if all(isinstance(count, int) and count >= 1 for count in counts):
        part = config.window_len * config.accumulation
        if config.batch_tokens % part:
            yield (
                f"batch_tokens must be a multiple of window_len x accumulation = {part}, "
                f"got {config.batch_tokens}"
            )
        if config.short_window_len and config.window_len % config.short_window_len:
            yield (
                f"short_window_len must divide window_len = {config.window_len}, "
                f"got {config.short_window_len}"
            )
    shape = (getattr(config, name) for name in DEFAULT_SHAPE)
    if config.size is None and all(n is None or (isinstance(n, int) and n >= 1) for n in shape):
        try:
            config.decoder(vocab_size=1, end_of_text_id=0)
        except ConfigError as error:
            yield from error.problems
