"""FinetuneConfig: everything that fine-tuning is told, checked before anything is written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.config import ConfigError
from model.lora import LORA_TARGETS, LoraConfig
from model.tasks import FORMS, JOINS, Form, Join
from training.config import DTYPES, DType
from training.errors import TrainingError
from training.metrics import CLASS_METRICS, METRICS, SCORE_METRICS
from training.task_data import Layout
from weights.task_description import TRAINS, Train

DEFAULT_TEXT: Mapping[Form, tuple[str, ...]] = {
    "classification": ("text",),
    "entailment": ("premise", "hypothesis"),
    "similarity": ("text_a", "text_b"),
    "multiple_choice": ("context", "choice1", "choice2"),
}
"""Columns of the text parts, named as the fields of /v1/classify are."""

_PER_CALL = (
    *("out", "data", "dev", "test", "start_from"),
    *("num_threads", "checkpoint_s", "checkpoint_steps", "resume", "baseline"),
)
"""Fields that may change when a run is continued. Of files and of the checkpoint that it started
from, the hashes are compared instead."""


@dataclass(frozen=True, slots=True)
class FinetuneConfig:
    """One fine-tuning run: objective L3 = L2 + ``lm_coef`` L1 (GPT paper, section 3.2).

    The defaults are the paper's (section 4.1). Raises TrainingError naming every impossible value.

    ``data``, ``dev`` and ``test`` are TSV, CSV or JSONL files. ``text`` names the column of each
    text part of ``form``, or several joined by ``+``, and ``label`` that of the label;
    ``columns`` names all columns of files without a header line. ``label_names`` are pairs
    ``written=name``. With a ``score_range`` labels are numbers in it, and the task is a regression.
    Of the training examples only ``num_examples`` are taken, drawn by the seed. Without ``dev``,
    ``dev_share`` of them are held out instead.

    ``train`` says what is trained beside the head and the three new embeddings: all (``full``),
    thin matrices of ``lora_rank`` beside ``lora_targets``, or nothing (``head``). Of a decoder that
    is trained whole, only the lowest ``transfer_layers`` layers start from the checkpoint, the
    rest from new values (section 5).

    ``word_dropout`` of a text's tokens, drawn anew in each step, are not seen.

    The weights kept are those of the epoch with the best ``metric`` on dev.
    """

    form: Form
    data: Path
    out: Path
    start_from: Path
    dev: Path | None = None
    dev_share: float | None = None
    num_examples: int | None = None
    test: Path | None = None
    text: tuple[str, ...] = ()
    label: str = "label"
    columns: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    score_range: tuple[float, float] | None = None
    join: Join | None = None
    name: str | None = None
    max_len: int | None = None
    train: Train = "full"
    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] = LORA_TARGETS
    transfer_layers: int | None = None
    lm_coef: float = 0.5
    learning_rate: float = 6.25e-5
    batch_size: int = 32
    num_epochs: int = 3
    warmup_share: float = 0.002
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    dropout: float = 0.1
    word_dropout: float = 0.0
    metric: str | None = None
    seed: int = 0
    dtype: DType = "bfloat16"
    device: str = "cpu"
    num_threads: int | None = None
    checkpoint_s: float = 120.0
    checkpoint_steps: int | None = None
    baseline: bool = False
    resume: bool = True

    def __post_init__(self) -> None:
        problems = [*_value_problems(self), *_choice_problems(self)]
        if not problems:
            problems += [*_data_problems(self), *_train_problems(self)]
        if problems:
            raise TrainingError(problems)

    @property
    def layout(self) -> Layout:
        """What the columns of the files are."""
        text = self.text or DEFAULT_TEXT[self.form]
        return Layout(tuple(tuple(part.split("+")) for part in text), self.label, self.columns)

    @property
    def lora(self) -> LoraConfig | None:
        """The thin matrices, if there are any."""
        if self.train != "lora":
            return None
        return LoraConfig(self.lora_rank, self.lora_alpha, self.lora_targets)

    @property
    def chosen_join(self) -> Join | None:
        """How the two orders of a similarity are joined: added, unless something else is asked."""
        return self.join or ("sum" if self.form == "similarity" else None)

    @property
    def chosen_metric(self) -> str:
        """What the best epoch is chosen by."""
        return self.metric or ("accuracy" if self.score_range is None else "pearson")

    @property
    def task_name(self) -> str:
        """What the task is served as, unless it is told otherwise."""
        return self.name or self.out.name

    def identity(self) -> dict[str, Any]:
        """The fields that make this run this run, as plain values; the rest may change."""
        values = {name: value for name, value in asdict(self).items() if name not in _PER_CALL}
        values |= {"name": self.task_name, "metric": self.chosen_metric, "join": self.chosen_join}
        values["text"] = self.text or DEFAULT_TEXT[self.form]
        lists = {name: [*value] for name, value in values.items() if isinstance(value, tuple)}
        return values | lists


_COUNTS = (
    *("max_len", "lora_rank", "num_examples", "batch_size", "num_epochs"),
    *("num_threads", "checkpoint_steps"),
)
_POSITIVE = ("lora_alpha", "learning_rate", "grad_clip", "checkpoint_s")
_FROM_ZERO = ("lm_coef", "weight_decay")
_COUNTS_FROM_ZERO = ("transfer_layers", "seed")
_BELOW_ONE = ("dropout", "word_dropout", "warmup_share")


def _value_problems(config: FinetuneConfig) -> Iterator[str]:
    rules = (
        (_COUNTS, "a whole number of at least 1", lambda x: isinstance(x, int) and x >= 1),
        (_COUNTS_FROM_ZERO, "a whole number of at least 0", lambda x: type(x) is int and x >= 0),
        (_POSITIVE, "a number above 0", lambda x: 0 < x < math.inf),
        (_FROM_ZERO, "a number of at least 0", lambda x: 0 <= x < math.inf),
        (_BELOW_ONE, "at least 0 and below 1", lambda x: 0 <= x < 1),
        (("dev_share",), "between 0 and 1", lambda x: 0 < x < 1),
    )
    for names, rule, holds in rules:
        for name in names:
            value = getattr(config, name)
            if value is not None and not holds(value):
                yield f"{name} must be {rule}, got {value!r}"


def _choice_problems(config: FinetuneConfig) -> Iterator[str]:
    choices = (
        ("form", FORMS),
        ("join", (None, *JOINS)),
        ("train", TRAINS),
        ("metric", (None, *METRICS)),
        ("dtype", DTYPES),
        ("device", ("cpu", "cuda")),
    )
    for name, known in choices:
        if getattr(config, name) not in known:
            listed = ", ".join(choice for choice in known if choice is not None)
            yield f"{name} must be one of {listed}, got {getattr(config, name)!r}"


def _data_problems(config: FinetuneConfig) -> Iterator[str]:
    if (config.dev is None) == (config.dev_share is None):
        found = "none" if config.dev is None else "both"
        yield f"exactly one of dev and dev_share must be given, got {found}"
    num_parts, wanted = len(config.layout.text), len(DEFAULT_TEXT[config.form])
    is_choice = config.form == "multiple_choice"
    if is_choice and num_parts < wanted:
        yield f"text must name the context and at least 2 choices, got {num_parts} columns"
    elif not is_choice and num_parts != wanted:
        yield f"text must name {wanted} columns for {config.form}, got {num_parts}"
    for name in config.layout.wanted if config.columns else ():
        if name not in config.columns:
            yield f"there is no column {name!r}, only {', '.join(config.columns)}"
    yield from _answer_problems(config)


def _answer_problems(config: FinetuneConfig) -> Iterator[str]:
    if config.join is not None and config.form != "similarity":
        yield f"join is only for similarity, got {config.join!r} for {config.form}"
    if config.form == "multiple_choice" and (config.score_range or config.label_names):
        yield "score_range and label_names are not for multiple_choice"
    elif config.score_range is not None and config.label_names:
        yield "label_names are of classes, a score_range is of numbers: give only one of them"
    for pair in config.label_names:
        if not all(pair.partition("=")):
            yield f"label_names must be pairs WRITTEN=NAME, got {pair!r}"
    ends = config.score_range
    if ends is not None and not -math.inf < ends[0] < ends[1] < math.inf:
        yield f"score_range must be two numbers, the lower first, got {ends!r}"
    known = CLASS_METRICS if ends is None else SCORE_METRICS
    if config.chosen_metric not in known:
        yield f"metric must be one of {', '.join(known)} here, got {config.metric!r}"


def _train_problems(config: FinetuneConfig) -> Iterator[str]:
    if config.transfer_layers is not None and config.train != "full":
        yield f"transfer_layers is only for train full, got {config.transfer_layers}"
    try:
        _ = config.lora
    except ConfigError as error:
        yield from error.problems
