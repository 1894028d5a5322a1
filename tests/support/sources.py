"""Every import of the project, as the abstract syntax trees of its files tell it."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOMS: Mapping[str, frozenset[str]] = {
    "model": frozenset(),
    "weights": frozenset({"model"}),
    "engine": frozenset({"model"}),
    "server": frozenset({"model", "engine"}),
    "training": frozenset({"model", "weights"}),
    "bench": frozenset({"model", "weights", "engine", "training"}),
    "deploy": frozenset({"model", "weights", "engine", "server"}),
}
"""Each top-level package, and those that it may import."""


PACKAGES = frozenset({*ROOMS, "tests"})
TEXTS = ("*.py", "*.h", "*.cpp", "*.md", "*.html", "*.css", "*.js")
BESIDE = ("*.py", "*.md", "*.toml", "Makefile", "Dockerfile", "docs/*.md", ".ci/*")


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, as one line of one file names it."""

    file: str
    line: int
    module: str
    is_lazy: bool
    is_eager: bool
    """Executed when the file is imported: neither in a function nor for type checkers."""

    def offence(self, text: str) -> str:
        """A line for people."""
        return f"{self.file}:{self.line}: {text}"


@dataclass(frozen=True)
class Project:
    """Sources and texts by path, as they are or made up, and what pyproject.toml declares."""

    texts: Mapping[str, str]
    declared: Mapping[str, tuple[str, ...]]

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        return {path: ast.parse(text) for path, text in self.texts.items() if path.endswith(".py")}

    @cached_property
    def modules(self) -> dict[str, str]:
        """Dotted name -> path."""
        return {module_of(path): path for path in self.trees}

    @cached_property
    def imports(self) -> list[Import]:
        return [found for path in self.trees for found in self._imports_of(path)]

    @property
    def sources(self) -> dict[str, ast.Module]:
        return {path: tree for path, tree in self.trees.items() if room_of(path) in ROOMS}

    @property
    def source_imports(self) -> list[Import]:
        return [found for found in self.imports if room_of(found.file) in ROOMS]

    def _imports_of(self, path: str) -> Iterator[Import]:
        for node, is_lazy, is_typing in walk(self.trees[path], is_lazy=False, is_typing=False):
            for name in names_of(node):
                module = self._resolve(name)
                yield Import(path, node.lineno, module, is_lazy, not is_lazy and not is_typing)

    def _resolve(self, name: str) -> str:
        """``engine.errors`` for ``engine.errors.QueueFull``: the longest part that is a module."""
        if name.partition(".")[0] not in PACKAGES:
            return name
        parts = name.split(".")
        ends = range(len(parts), 0, -1)
        candidates = [".".join(parts[:end]) for end in ends]
        return next((found for found in candidates if found in self.modules), name)


def module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def room_of(path_or_module: str) -> str:
    return re.split(r"[./]", path_or_module, maxsplit=1)[0]


def walk(
    node: ast.AST, *, is_lazy: bool, is_typing: bool
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    """Every import below ``node``; whether it is in a function, and whether for types only."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node, is_lazy, is_typing
    is_lazy = is_lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        is_guarded = is_typing_block(node) and child in getattr(node, "body", ())
        yield from walk(child, is_lazy=is_lazy, is_typing=is_typing or is_guarded)


def is_typing_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def names_of(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module}.{alias.name}" for alias in node.names] if node.module else []


def read_project(root: Path) -> Project:
    """The project that lies at ``root``; nothing that was built there."""
    paths = {path for room in PACKAGES for kind in TEXTS for path in (root / room).rglob(kind)}
    paths |= {path for pattern in BESIDE for path in root.glob(pattern)}
    texts = {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in sorted(paths)}
    return Project(texts, read_declared(tomllib.loads(texts["pyproject.toml"])["project"]))


def read_declared(table: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Distribution names by extra; those of a plain installation stand under ""."""
    lists = {"": table["dependencies"], **table["optional-dependencies"]}
    return {
        extra: tuple(re.split(r"[^\w-]", entry.lower(), maxsplit=1)[0] for entry in entries)
        for extra, entries in lists.items()
    }
