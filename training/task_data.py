"""Labelled examples from TSV, CSV and JSONL files with named columns; every bad row is told."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import TrainingError

SUFFIXES = (".tsv", ".csv", ".jsonl")


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns of a file are what.

    ``text`` has for each part of an input the columns that it is made of, joined by a space.
    ``columns`` names all columns of a TSV or CSV file without a header line; empty where the first
    line is one.
    """

    text: tuple[tuple[str, ...], ...]
    label: str
    columns: tuple[str, ...] = ()

    @property
    def wanted(self) -> tuple[str, ...]:
        """Every column that is read."""
        return tuple(dict.fromkeys([name for part in self.text for name in part] + [self.label]))


@dataclass(frozen=True, slots=True)
class Example:
    """One row. ``label`` is as it is written."""

    where: str
    """File and line."""
    texts: tuple[str, ...]
    label: str


@dataclass(frozen=True, slots=True)
class Examples:
    """A file's rows, and the sha256 of the file in hex."""

    rows: tuple[Example, ...]
    sha256: str


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    values: Mapping[str, Any]
    problem: str | None = None


def read_examples(path: Path, layout: Layout, problems: list[str]) -> Examples:
    """The good rows of a file. What is wrong with the rest is added to ``problems``."""
    if path.suffix not in SUFFIXES:
        problems.append(f"{path}: data must be one of {', '.join(SUFFIXES)}, got {path.name!r}")
        return Examples((), "")
    try:
        content = path.read_bytes()
        text = content.decode()
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        problems.append(f"{path}:{line}: not UTF-8")
        return Examples((), "")
    except OSError as error:
        problems.append(f"{path}: {error.strerror or error}")
        return Examples((), "")
    try:
        rows = [*_rows(path.suffix, text, layout)]
    except TrainingError as error:
        problems += [f"{path}: {problem}" for problem in error.problems]
        return Examples((), "")
    found = [_example(path, row, layout, problems) for row in rows]
    if not rows:
        problems.append(f"{path}: there are no rows")
    examples = tuple(example for example in found if example is not None)
    return Examples(examples, hashlib.sha256(content).hexdigest())


def _rows(suffix: str, text: str, layout: Layout) -> Iterator[_Row]:
    if suffix == ".jsonl":
        yield from _json_rows(text)
        return
    lines = _csv_fields(text) if suffix == ".csv" else _tsv_fields(text)
    columns: Sequence[str] = layout.columns
    for line, fields in lines:
        if not columns:
            columns = fields
        elif len(fields) != len(columns):
            yield _Row(line, {}, f"has {len(fields)} fields, there are {len(columns)} columns")
        else:
            yield _Row(line, dict(zip(columns, fields, strict=True)))
        if missing := [name for name in layout.wanted if name not in columns]:
            listed = ", ".join(columns)[:200]
            raise TrainingError([f"there is no column {name!r}, only {listed}" for name in missing])


def _tsv_fields(text: str) -> Iterator[tuple[int, list[str]]]:
    """No quotes and no escapes: a tab ends a field, a line feed ends a row."""
    for line, row in enumerate(text.split("\n"), 1):
        if row.strip():
            yield line, row.removesuffix("\r").split("\t")


def _csv_fields(text: str) -> Iterator[tuple[int, list[str]]]:
    """RFC 4180: a quoted field may hold line feeds; a row is called by its last line."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        raise TrainingError([f"line {reader.line_num} is not CSV: {error}"]) from error


def _json_rows(text: str) -> Iterator[_Row]:
    for line, row in enumerate(text.split("\n"), 1):
        if not row.strip():
            continue
        try:
            values = json.loads(row)
        except (ValueError, RecursionError) as error:
            yield _Row(line, {}, f"not JSON: {error}")
            continue
        if isinstance(values, dict):
            yield _Row(line, values)
        else:
            yield _Row(line, {}, f"must be an object, not {type(values).__name__}")


def _example(path: Path, row: _Row, layout: Layout, problems: list[str]) -> Example | None:
    where = f"{path}:{row.line}"
    found = [row.problem] if row.problem else [*_value_problems(row.values, layout)]
    if found:
        problems += [f"{where}: {problem}" for problem in found]
        return None
    texts = tuple(" ".join(row.values[name] for name in part) for part in layout.text)
    return Example(where, texts, str(row.values[layout.label]))


def _value_problems(values: Mapping[str, Any], layout: Layout) -> Iterator[str]:
    for name in layout.wanted:
        value = values.get(name)
        if value is None:
            yield f"{name!r} is missing"
        elif name == layout.label and type(value) in {int, float}:
            continue  # JSON has numbers
        elif not isinstance(value, str):
            yield f"{name!r} must be a text, not {type(value).__name__}"
        elif not value.strip():
            yield f"{name!r} is empty"
        elif any("\ud800" <= char <= "\udfff" for char in value):
            yield f"{name!r} has a lone surrogate, which UTF-8 cannot hold"
