"""Labels as they are written, and as the numbers that a network is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.finetune_config import FinetuneConfig
from training.task_data import Example


@dataclass(frozen=True, slots=True)
class Labels:
    """How the labels of one task are read.

    ``written`` are the classes as the files have them, sorted; none of a regression, whose labels
    lie in ``score_range``, and of a multiple choice, whose labels count ``num_choices`` from 0.
    """

    written: tuple[str, ...] = ()
    score_range: tuple[float, float] | None = None
    num_choices: int = 0

    @classmethod
    def of(cls, config: FinetuneConfig, training: Sequence[Example]) -> Labels:
        """The classes are those of the training examples."""
        if config.score_range is not None:
            return cls(score_range=config.score_range)
        if config.form == "multiple_choice":
            return cls(num_choices=len(config.layout.text) - 1)
        return cls(tuple(sorted({example.label for example in training})))

    def names(self, config: FinetuneConfig, problems: list[str]) -> tuple[str, ...]:
        """What the classes are called in answers. Why they cannot be, in ``problems``."""
        given: Mapping[str, str] = dict(_pair(pair) for pair in config.label_names)
        problems += [
            f"label_names has {written!r}, which is no label of {config.data}"
            for written in given
            if written not in self.written
        ]
        return tuple(given.get(written, written) for written in self.written)

    def targets(self, examples: Sequence[Example], problems: list[str]) -> list[float]:
        """The number of each example's class or choice, or its score from 0 to 1."""
        targets = []
        for example in examples:
            try:
                targets.append(self._target(example.label))
            except ValueError as error:
                problems.append(f"{example.where}: {error}")
        return targets

    def _target(self, label: str) -> float:
        if self.score_range is not None:
            return self._score(label, *self.score_range)
        if self.num_choices:
            if label not in (known := [str(number) for number in range(self.num_choices)]):
                raise ValueError(f"label must be one of {', '.join(known)}, got {label[:80]!r}")
            return int(label)
        if label not in self.written:
            listed = ", ".join(self.written)[:200]
            raise ValueError(f"label must be one of {listed}, got {label[:80]!r}")
        return self.written.index(label)

    @staticmethod
    def _score(label: str, low: float, high: float) -> float:
        try:
            score = float(label)
        except ValueError:
            raise ValueError(f"label must be a number, got {label[:80]!r}") from None
        if not low <= score <= high:
            raise ValueError(f"label must be from {low:g} to {high:g}, got {label[:80]}")
        return (score - low) / (high - low)


def _pair(text: str) -> tuple[str, str]:
    written, _, name = text.partition("=")
    return written, name
