"""The plan of the house as rules: each a function from a Project to the offences it finds.

Who may import whom, which library belongs where, and what every file owes its reader.
"""

from __future__ import annotations

import ast
import graphlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from tests.support.sources import PACKAGES, ROOMS, Import, Project, module_of, room_of

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


@dataclass(frozen=True)
class Door:
    """Files that may import a module which their room may not."""

    files: str
    module: str
    is_lazy: bool


DOORS = (
    Door("engine/process.py", "weights.checkpoint", is_lazy=False),
    Door("engine/process.py", "weights.task", is_lazy=True),
    Door("server/cli.py", "weights", is_lazy=True),
    Door("server/cli.py", "training", is_lazy=True),
    Door("server/commands/*.py", "weights", is_lazy=True),
    Door("server/commands/*.py", "training", is_lazy=True),
    Door("server/commands/*.py", "bench", is_lazy=True),
)

OWNED: Mapping[str, str] = {
    "fastapi": "server/*",
    "starlette": "server/*",
    "prometheus_client": "server/metrics.py",
    "tiktoken": "model/tokenizer.py",
    "llguidance": "model/grammar.py",
    "huggingface_hub": "weights/hub/*",
    "httpx2": "weights/hub/*",
    "ray": "deploy/*",
}
"""Libraries that one place alone knows."""

TORCH_FREE = (
    *(f"engine/{name}.py" for name in ("scheduler", "slot_pool", "sequence", "chunk_budget")),
    *(f"engine/{name}.py" for name in ("request", "messages", "errors", "step", "admission")),
    *(f"engine/device/{name}.py" for name in ("__init__", "fault", "launch", "memory")),
    *(f"engine/device/{name}.py" for name in ("run_ahead", "scheduler")),
    *(f"engine/{name}.py" for name in ("client", "child", "stream", "supervision", "transport")),
    *(f"model/{name}.py" for name in ("config", "tasks", "vocabulary", "philox")),
    *(f"model/{name}.py" for name in ("tokenizer", "gpt_tokenizer")),
    "server/*",
)
"""What the API process is made of, and what must be testable in milliseconds."""

LAZY_TORCH = "server/commands/*.py"
LAZY_LOADER = "engine/process.py"
"""Torch-free when imported: the API process imports it for the name of the factory."""

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "model": ("gpu",),
    "training": ("training",),
    "bench": ("bench", "peers"),
    "deploy": ("ray",),
    "tests": ("training", "bench", "gpu", "peers", "test", "fixtures", "fuzz", "browser"),
}
"""Packages that may use more than the dependencies of a plain installation."""

DISTRIBUTIONS: Mapping[str, str] = {
    "yaml": "pyyaml",
    "llama_cpp": "llama-cpp-python",
    "pythonjsonlogger": "python-json-logger",
}
"""Libraries that are declared by another name than they are imported by."""

UNFINISHED = re.compile("TO" + "DO|FIX" + "ME")
OUR_MACHINE = re.compile("/" + r"work\b")


def is_any(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


# -- the rules -----------------------------------------------------------------------------


def against_the_plan(project: Project) -> Iterator[str]:
    """An import of a room that this room may not know."""
    for found in project.source_imports:
        room, other = room_of(found.file), room_of(found.module)
        is_planned = other == room or other in ROOMS[room]
        if other in PACKAGES and not is_planned and not has_door(found):
            yield found.offence(f"{room} may not import {found.module} here")


def has_door(found: Import) -> bool:
    return any(
        fnmatch(found.file, door.files)
        and f"{found.module}.".startswith(f"{door.module}.")
        and (found.is_lazy or not door.is_lazy)
        for door in DOORS
    )


def owned_elsewhere(project: Project) -> Iterator[str]:
    """A library in a file other than the one that knows it."""
    for found in project.source_imports:
        owner = OWNED.get(room_of(found.module))
        if owner is not None and not fnmatch(found.file, owner):
            yield found.offence(f"{found.module} belongs to {owner} alone")


def torch_where_it_may_not_be(project: Project) -> Iterator[str]:
    """An import of torch by a torch-free file, even inside a function."""
    for found in project.source_imports:
        is_excused = found.is_lazy and fnmatch(found.file, LAZY_TORCH)
        is_torch = room_of(found.module) == "torch"
        if is_torch and is_any(found.file, TORCH_FREE) and not is_excused:
            yield found.offence("torch may not be imported here")


def torch_reached(project: Project) -> Iterator[str]:
    """A torch-free file whose import imports torch by way of others."""
    eager: dict[str, set[str]] = {module: set() for module in project.modules}
    for found in project.source_imports:
        if found.is_eager:
            eager[module_of(found.file)].add(found.module)
    for module, path in project.modules.items():
        if is_any(path, (*TORCH_FREE, LAZY_LOADER)):
            way = way_to_torch(module, eager)
            if len(way) > 2:
                yield f"{path}: importing it imports torch: {' -> '.join(way)}"


def way_to_torch(start: str, eager: Mapping[str, set[str]]) -> list[str]:
    """The modules from ``start`` to torch, both included; empty if there is no way."""
    ways = [[start]]
    seen = {start}
    for way in ways:  # grows while it is walked: breadth first
        if room_of(way[-1]) == "torch":
            return way
        package = way[-1].rpartition(".")[0]
        for module in sorted(
            eager.get(way[-1], set()) | ({package} if package in eager else set())
        ):
            if module not in seen:
                seen.add(module)
                ways.append([*way, module])
    return []


def bare_package(project: Project) -> Iterator[str]:
    """``import model`` takes everybody's favourite variable."""
    for path, tree in project.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if room_of(alias.name) in ROOMS and alias.asname is None:
                        yield f"{path}:{node.lineno}: import {alias.name} binds a package's name"


def relative_import(project: Project) -> Iterator[str]:
    """Whole names only: they can be searched for."""
    for path, tree in project.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                yield f"{path}:{node.lineno}: a relative import"


def cycle(project: Project) -> Iterator[str]:
    """Packages, or modules, that import each other, types included."""
    for name_of in (room_of, str):
        graph: dict[str, set[str]] = {}
        for found in project.source_imports:
            source, target = name_of(module_of(found.file)), name_of(found.module)
            if source != target and room_of(target) in ROOMS:
                graph.setdefault(source, set()).add(target)
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            yield f"a cycle of imports: {' <- '.join(error.args[1])}"


def undeclared(project: Project) -> Iterator[str]:
    """A library that the installation this file is part of does not bring."""
    for found in project.imports:
        top = room_of(found.module)
        is_ours = top in sys.stdlib_module_names or top in PACKAGES
        if is_ours or room_of(found.file) not in PACKAGES:  # setup.py has the build system's
            continue
        extras = EXTRAS.get(room_of(found.file), ())
        declared = {name for extra in ("", *extras) for name in project.declared.get(extra, ())}
        if DISTRIBUTIONS.get(top, top).replace("_", "-") not in declared:
            yield found.offence(f"{top} is not declared in pyproject.toml for this package")


def init_file_in_tests(project: Project) -> Iterator[str]:
    """tests/model would hide the package model."""
    for path in project.trees:
        if fnmatch(path, "tests/*__init__.py"):
            yield f"{path}: tests have no __init__.py"


def no_docstring(project: Project) -> Iterator[str]:
    """A source that does not say what it is for."""
    for path, tree in project.sources.items():
        if not ast.get_docstring(tree):
            yield f"{path}: no module docstring"


def long_file(project: Project) -> Iterator[str]:
    """More than fits in one head."""
    for path, text in project.texts.items():
        num_lines = len(text.splitlines())
        if path.endswith((".py", ".h", ".cpp")) and num_lines > MAX_FILE_LINES:
            yield f"{path}: {num_lines} lines, at most {MAX_FILE_LINES}"


def long_function(project: Project) -> Iterator[str]:
    """More than fits on a screen."""
    for path, tree in project.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if num_lines > MAX_FUNCTION_LINES:
                    where = f"{path}:{node.lineno}: {node.name}"
                    yield f"{where} has {num_lines} lines, at most {MAX_FUNCTION_LINES}"


def unfinished(project: Project) -> Iterator[str]:
    """Work that was put off."""
    yield from lines_with(project, UNFINISHED)


def path_of_our_machine(project: Project) -> Iterator[str]:
    """A path that only means something where this was written."""
    yield from lines_with(project, OUR_MACHINE)


def lines_with(project: Project, pattern: re.Pattern[str]) -> Iterator[str]:
    for path, text in project.texts.items():
        for number, line in enumerate(text.splitlines(), 1):
            if match := pattern.search(line):
                yield f"{path}:{number}: {match.group()}"


RULES: tuple[Callable[[Project], Iterator[str]], ...] = (
    against_the_plan,
    owned_elsewhere,
    torch_where_it_may_not_be,
    torch_reached,
    bare_package,
    relative_import,
    cycle,
    undeclared,
    init_file_in_tests,
    no_docstring,
    long_file,
    long_function,
    unfinished,
    path_of_our_machine,
)
