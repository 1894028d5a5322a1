"""Tasks: texts to the sequences that a decoder reads, and logits to answers. Imports no torch.

The input transformations of the GPT paper (section 3.3, figure 1), one piece of code for
fine-tuning and for serving, so that the two cannot drift apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from model.config import ConfigError

Form = Literal["classification", "entailment", "similarity", "multiple_choice"]
Join = Literal["sum", "concatenate"]
Pooling = Literal["extract", "last"]

FORMS: tuple[Form, ...] = get_args(Form)
JOINS: tuple[Join, ...] = get_args(Join)
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)

START, DELIMITER, EXTRACT = 0, 1, 2
"""The new ids, relative to the first id behind the vocabulary."""

NUM_SPECIAL = 3
MIN_LEN = 5
"""Positions of start, one token, delimiter, one token, extract."""

MAX_LABELS = 10_000

TaskInput = tuple[tuple[int, ...], ...]
"""The text parts of one input as ids: the text; premise and hypothesis; the two texts; or the
context and then each choice."""


class TaskInputError(ValueError):
    """Parts that are not an input of the task. The message gives the rule and what was found."""


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """What a task reads and answers.

    ``labels`` name the outputs; a regression and a multiple choice have none. A regression's one
    output is 0 at the low end of ``score_range`` and 1 at the high end. ``join`` says what becomes
    of the two orders of a similarity: their final vectors are added (the paper), or laid side by
    side. ``max_len`` is the most positions that a sequence takes, at most the decoder's.
    ``pooling`` is ``last`` for classifiers without start and extract, which read the final vector
    of the last token (upstream ``GPT2ForSequenceClassification``).

    Raises ConfigError naming every impossible value.
    """

    form: Form
    max_len: int
    labels: tuple[str, ...] = ()
    is_regression: bool = False
    score_range: tuple[float, float] | None = None
    join: Join | None = None
    pooling: Pooling = "extract"

    def __post_init__(self) -> None:
        problems = [*_value_problems(self)]
        if not problems:
            problems += [*_label_problems(self), *_form_problems(self)]
        if problems:
            raise ConfigError(problems)

    @property
    def num_outputs(self) -> int:
        """Logits of a sequence."""
        return len(self.labels) if self.has_labels else 1

    @property
    def has_labels(self) -> bool:
        """Whether the outputs are classes with names."""
        return not self.is_regression and self.form != "multiple_choice"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as written to task.json."""
        score_range = None if self.score_range is None else [*self.score_range]
        return {**asdict(self), "labels": [*self.labels], "score_range": score_range}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TaskConfig:
        """The inverse of :meth:`to_dict`. Raises ConfigError for anything else."""
        known = {field.name for field in fields(cls)}
        problems = [f"unknown field {name!r}" for name in sorted(values.keys() - known)]
        problems += [f"missing field {name!r}" for name in sorted(known - values.keys())]
        problems += [
            f"{name} must be a list, got {values[name]!r}"
            for name, is_optional in (("labels", False), ("score_range", True))
            if name in values and not isinstance(values[name], list)
            if not (is_optional and values[name] is None)
        ]
        if problems:
            raise ConfigError(problems)
        score_range = values["score_range"]
        ends = None if score_range is None else tuple(score_range)
        return cls(**{**values, "labels": tuple(values["labels"]), "score_range": ends})


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer. ``probabilities`` are by label; of a multiple choice by the choice's number.

    ``score`` is the probability of ``label``; a regression has only a score.
    """

    label: str | None
    score: float
    probabilities: Mapping[str, float]


def sequences(
    config: TaskConfig, parts: TaskInput, first_special_id: int
) -> tuple[tuple[int, ...], ...]:
    """The id sequences of one input, each of at most ``max_len``.

    One for classification and entailment, both orders for similarity, and one for each choice.
    What is too long loses the end of its longest part, and of both where both have more than half
    of the room. That does not depend on the order of the two, so the two sequences of a similarity
    hold the same tokens. The choices of one input all see the same piece of the context: what the
    longest of them leaves.

    Raises TaskInputError where the parts are not those of the form.
    """
    _check_parts(config, parts)
    if config.pooling == "last":
        return (parts[0][: config.max_len],)
    start, delimiter, extract = (first_special_id + i for i in (START, DELIMITER, EXTRACT))
    if config.form == "classification":
        return ((start, *parts[0][: config.max_len - 2], extract),)
    first, *others = parts
    room = config.max_len - NUM_SPECIAL
    first_len, other_len = _kept(len(first), max(map(len, others)), room)
    pairs = [(first[:first_len], other[:other_len]) for other in others]
    if config.form == "similarity":
        pairs += [(second, first) for first, second in pairs]
    return tuple((start, *a, delimiter, *b, extract) for a, b in pairs)


def outcome(config: TaskConfig, logits: Sequence[Sequence[float]]) -> Outcome:
    """The answer to one input, from what TaskHead.logits gave for each of its sequences, in order.

    The two orders of a similarity add up: model/heads.py says why.
    """
    if config.form == "multiple_choice":
        names = [str(number) for number in range(len(logits))]
        return _likeliest(names, [score for (score,) in logits])
    totals = [math.fsum(column) for column in zip(*logits, strict=True)]
    if config.score_range is None:
        return _likeliest(config.labels, totals)
    low, high = config.score_range
    share = min(max(totals[0], 0.0), 1.0)
    return Outcome(None, low + (high - low) * share, {})


def _check_parts(config: TaskConfig, parts: TaskInput) -> None:
    if config.form == "multiple_choice":
        if len(parts) < 3:
            found = max(len(parts) - 1, 0)
            raise TaskInputError(f"multiple_choice needs at least 2 choices, got {found}")
        return
    wanted = 1 if config.form == "classification" else 2
    if len(parts) != wanted:
        raise TaskInputError(f"{config.form} needs exactly {wanted} texts, got {len(parts)}")
    if config.pooling == "last" and not parts[0]:
        raise TaskInputError("a classifier of the last token needs at least 1 token, got 0")


def _kept(first_len: int, other_len: int, room: int) -> tuple[int, int]:
    """How much of each fits: what the other leaves of ``room``, and never less than half."""
    half = room // 2
    return (
        min(first_len, max(half, room - other_len)),
        min(other_len, max(half, room - first_len)),
    )


def _likeliest(labels: Sequence[str], logits: Sequence[float]) -> Outcome:
    highest = max(logits)
    weights = [math.exp(logit - highest) for logit in logits]
    total = math.fsum(weights)
    best = max(range(len(logits)), key=logits.__getitem__)  # of equals the first
    probabilities = [weight / total for weight in weights]
    return Outcome(labels[best], probabilities[best], dict(zip(labels, probabilities, strict=True)))


def _value_problems(config: TaskConfig) -> Iterator[str]:
    for name, known in (("form", FORMS), ("join", (None, *JOINS)), ("pooling", POOLINGS)):
        if getattr(config, name) not in known:
            listed = ", ".join(str(choice) for choice in known)
            yield f"{name} must be one of {listed}, got {getattr(config, name)!r}"
    if not isinstance(config.max_len, int) or isinstance(config.max_len, bool):
        yield f"max_len must be a whole number, got {config.max_len!r}"
    elif config.max_len < MIN_LEN:
        yield f"max_len must be at least {MIN_LEN}, got {config.max_len}"
    if not isinstance(config.is_regression, bool):
        yield f"is_regression must be true or false, got {config.is_regression!r}"
    if not all(isinstance(label, str) and label for label in config.labels):
        yield f"labels must be texts that are not empty, got {_short(config.labels)}"
    if config.score_range is not None and not _is_range(config.score_range):
        yield f"score_range must be two numbers, the lower first, got {_short(config.score_range)}"


def _is_range(ends: tuple[Any, ...]) -> bool:
    is_pair = len(ends) == 2 and all(type(end) in {int, float} for end in ends)
    return is_pair and -math.inf < ends[0] < ends[1] < math.inf


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _label_problems(config: TaskConfig) -> Iterator[str]:
    num_labels = len(config.labels)
    if config.has_labels and not 2 <= num_labels <= MAX_LABELS:
        yield f"labels must be 2 to {MAX_LABELS:,} for {config.form}, got {num_labels}"
    if not config.has_labels and num_labels:
        kind = "a regression" if config.is_regression else config.form
        yield f"labels must be empty for {kind}, got {num_labels}"
    if len(set(config.labels)) != num_labels:
        twice = sorted({label for label in config.labels if config.labels.count(label) > 1})
        yield f"labels must differ, got {_short(twice)} more than once"


def _form_problems(config: TaskConfig) -> Iterator[str]:
    if config.is_regression and config.form == "multiple_choice":
        yield "is_regression must be false for multiple_choice, got True"
    if config.is_regression and config.score_range is None:
        yield "score_range is missing, which a regression needs"
    if not config.is_regression and config.score_range is not None:
        yield f"score_range is only for a regression, got {config.score_range!r}"
    if config.form == "similarity" and config.join is None:
        yield f"join must be one of {', '.join(JOINS)} for similarity, got None"
    if config.form != "similarity" and config.join is not None:
        yield f"join is only for similarity, got {config.join!r} for {config.form}"
    if config.pooling == "last" and config.form != "classification":
        yield f"pooling last is only for classification, got {config.form}"
