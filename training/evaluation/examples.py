"""Examples in JSON lines; a bad one is reported with its file, line and reason, all at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from training.errors import TrainingError

MAX_LISTED = 10

T = TypeVar("T")


class ExampleError(ValueError):
    """What is wrong with one example."""


def read_examples(path: Path, parse: Callable[[object], T]) -> tuple[T, ...]:
    """What ``parse`` makes of each line that is not blank.

    ``parse`` raises ExampleError. Raises TrainingError naming the bad lines, and OSError.
    """
    try:
        lines = path.read_bytes().decode().split("\n")
    except UnicodeDecodeError as error:
        raise TrainingError([f"{path} is not UTF-8 at byte {error.start}"]) from error
    found, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(parse(json.loads(line)))
        except json.JSONDecodeError as error:
            problems.append(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}")
        except ExampleError as error:
            problems.append(f"{path}:{number}: {error}")
    if len(problems) > MAX_LISTED:
        rest = len(problems) - MAX_LISTED
        problems[MAX_LISTED:] = [f"and {rest} more lines of {path} that cannot be used"]
    if not found and not problems:
        problems.append(f"{path} has no examples")
    if problems:
        raise TrainingError(problems)
    return tuple(found)


def text_of(values: object, name: str) -> str:
    """A field that is a text and not empty. Raises ExampleError."""
    value = _field(values, name)
    if not isinstance(value, str) or not value.strip():
        raise ExampleError(f"{name} must be a text that is not empty, got {_shown(value)}")
    return value


def texts_of(values: object, name: str) -> tuple[str, ...]:
    """A field that is a list of texts, or one text. Raises ExampleError."""
    value = _field(values, name)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ExampleError(f"{name} must be a text or a list of texts, got {_shown(value)}")
    return tuple(texts)


def _field(values: object, name: str) -> object:
    if not isinstance(values, dict):
        raise ExampleError(f"a line must be a JSON object, got {_shown(values)}")
    if name not in values:
        raise ExampleError(f"{name} is missing")
    return values[name]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "..."
