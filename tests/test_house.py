"""The plan of the house, guarded.

Every rule is run on the sources as they are, and on made-up ones that break it and that keep it,
so a rule that finds nothing is known to be able to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support import house
from tests.support.sources import Project, read_declared, read_project, room_of

Rule = Callable[[Project], Iterator[str]]
Texts = Mapping[str, str]

DECLARED = {"": ("click", "prometheus-client", "torch"), "training": ("matplotlib",), "test": ()}
LAZY = "def load() -> None:\n    "
FOR_TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
PUT_OFF = "# TO" + "DO: later"
HOME = "see /" + "work/notes.md"


@pytest.fixture(scope="module")
def project() -> Project:
    return read_project(Path(__file__).resolve().parents[1])


@pytest.mark.parametrize("rule", house.RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps(rule: Rule, project: Project) -> None:
    offences = list(dict.fromkeys(rule(project)))  # one line may import several names
    assert not offences, "\n".join([rule.__doc__ or "", *offences])


def test_the_walk_sees_the_house(project: Project) -> None:
    """A walk that missed a room would find nothing wrong with it."""
    rooms = {room_of(found.file) for found in project.source_imports}
    assert {"model", "weights", "engine", "server", "training", "bench"} <= rooms
    seen = {(found.file, found.module) for found in project.imports}
    assert ("engine/process.py", "weights.checkpoint") in seen
    assert ("server/errors.py", "engine.errors") in seen
    assert {"README.md", "docs/architecture.md", ".ci/run", "pyproject.toml"} <= {*project.texts}


BROKEN: list[tuple[Rule, Texts, str]] = [
    (house.against_the_plan, {"model/a.py": "from weights.b import c"}, "model/a.py:1"),
    (house.against_the_plan, {"engine/a.py": LAZY + "from server.b import c"}, "engine/a.py:2"),
    (house.against_the_plan, {"engine/a.py": FOR_TYPES + "from server.b import c"}, "a.py:3"),
    (house.against_the_plan, {"engine/core.py": LAZY + "import weights.checkpoint"}, "core.py:2"),
    (house.against_the_plan, {"engine/process.py": "from weights.stored import c"}, "stored"),
    (house.against_the_plan, {"server/app.py": LAZY + "import weights.checkpoint"}, "app.py:2"),
    (house.against_the_plan, {"server/cli.py": "from training.pretrain import a"}, "cli.py:1"),
    (house.against_the_plan, {"server/commands/a.py": FOR_TYPES + "import weights"}, "a.py:3"),
    (house.against_the_plan, {"server/commands/a.py": "import bench.peers"}, "a.py:1"),
    (house.against_the_plan, {"bench/a.py": LAZY + "from server.app import b"}, "server.app"),
    (house.against_the_plan, {"training/a.py": "from engine.core import b"}, "engine.core"),
    (house.against_the_plan, {"model/a.py": "from tests.b import c"}, "tests.b"),
    (house.owned_elsewhere, {"engine/a.py": "from fastapi import FastAPI"}, "fastapi"),
    (house.owned_elsewhere, {"bench/a.py": LAZY + "import starlette.requests"}, "starlette"),
    (house.owned_elsewhere, {"server/ops.py": "import prometheus_client"}, "prometheus_client"),
    (house.owned_elsewhere, {"model/vocabulary.py": "import tiktoken"}, "tiktoken"),
    (house.owned_elsewhere, {"server/app.py": "import ray"}, "ray"),
    (house.owned_elsewhere, {"weights/a.py": "import huggingface_hub.utils"}, "huggingface_hub"),
    (house.torch_where_it_may_not_be, {"engine/scheduler.py": LAZY + "import torch"}, ":2"),
    (house.torch_where_it_may_not_be, {"model/config.py": "from torch import Tensor"}, ":1"),
    (house.torch_where_it_may_not_be, {"server/app.py": LAZY + "import torch.nn"}, ":2"),
    (house.torch_where_it_may_not_be, {"server/commands/a.py": "import torch"}, ":1"),
    (
        house.torch_reached,
        {
            "server/app.py": "from engine.loader import build_core",
            "engine/loader.py": "from model.decoder import GPT",
            "model/decoder.py": "from torch import nn",
        },
        "server.app -> engine.loader -> model.decoder -> torch",
    ),
    (
        house.torch_reached,
        {"engine/errors.py": "", "engine/__init__.py": "import torch"},
        "engine.errors -> engine -> torch",
    ),
    (house.bare_package, {"tests/test_a.py": "import model"}, "test_a.py:1"),
    (house.bare_package, {"server/a.py": LAZY + "import model.decoder"}, "a.py:2"),
    (house.relative_import, {"model/a.py": "from .b import c"}, "model/a.py:1"),
    (
        house.cycle,
        {"model/a.py": "from weights.b import c", "weights/b.py": "from model.d import e"},
        "model <- weights <- model",
    ),
    (
        house.cycle,
        {"model/a.py": "from model.b import c", "model/b.py": FOR_TYPES + "from model.a import d"},
        "model.a <- model.b <- model.a",
    ),
    (house.undeclared, {"engine/a.py": "import numpy"}, "numpy"),
    (house.undeclared, {"engine/a.py": LAZY + "import matplotlib"}, "matplotlib"),
    (house.init_file_in_tests, {"tests/model/__init__.py": ""}, "tests/model"),
    (house.init_file_in_tests, {"tests/__init__.py": ""}, "tests/__init__.py"),
    (house.no_docstring, {"model/a.py": "# a comment\nx = 1"}, "model/a.py"),
    (house.long_file, {"model/a.cpp": "\n" * 401}, "401 lines"),
    (house.long_function, {"tests/a.py": "async def f():\n" + " x\n" * 60}, "f has 61 lines"),
    (house.unfinished, {"model/a.h": "//\n" + PUT_OFF}, "model/a.h:2"),
    (house.path_of_our_machine, {"docs/a.md": HOME}, "docs/a.md:1"),
]

KEPT: list[tuple[Rule, Texts]] = [
    (house.against_the_plan, {"engine/process.py": LAZY + "from weights.checkpoint import c"}),
    (house.against_the_plan, {"server/commands/a.py": LAZY + "from weights.convert import c"}),
    (house.against_the_plan, {"server/cli.py": LAZY + "from training.pretrain import a"}),
    (house.against_the_plan, {"server/commands/a.py": LAZY + "from bench.peers import run"}),
    (house.against_the_plan, {"bench/a.py": "from engine.core import b"}),
    (house.against_the_plan, {"tests/test_a.py": "from weights.b import c"}),
    (house.owned_elsewhere, {"server/commands/a.py": "import fastapi"}),
    (house.torch_where_it_may_not_be, {"server/commands/a.py": LAZY + "import torch"}),
    (
        house.torch_reached,
        {
            "engine/process.py": LAZY + "from model.decoder import GPT",
            "engine/client.py": "from engine.process import main",
            "server/app.py": FOR_TYPES + "from model.decoder import GPT",
            "model/decoder.py": "import torch",
        },
    ),
    (house.bare_package, {"server/a.py": "import model.decoder as decoder\nfrom model import b"}),
    (house.cycle, {"model/a.py": "from model.b import c", "model/b.py": ""}),
    (house.undeclared, {"training/a.py": "import sys\nimport matplotlib.figure"}),
    (house.undeclared, {"server/a.py": "from prometheus_client import Gauge\nimport model.b"}),
    (house.no_docstring, {"model/a.py": '"""What it is for."""', "tests/test_a.py": ""}),
    (house.long_file, {"model/a.py": "\n" * 400, "docs/a.md": "\n" * 401}),
    (house.long_function, {"tests/a.py": "def f():\n" + " x\n" * 59}),
    (house.path_of_our_machine, {"docs/a.md": "the /" + "workers of home/" + "works"}),
]


@pytest.mark.parametrize(("rule", "texts", "offence"), BROKEN)
def test_a_rule_finds(rule: Rule, texts: Texts, offence: str) -> None:
    offences = list(rule(Project(texts, DECLARED)))
    assert len(offences) == 1
    assert offence in offences[0]


@pytest.mark.parametrize(("rule", "texts"), KEPT)
def test_a_rule_lets_pass(rule: Rule, texts: Texts) -> None:
    assert list(rule(Project(texts, DECLARED))) == []


def test_every_rule_is_seen_to_find_something() -> None:
    assert {rule for rule, _, _ in BROKEN} == set(house.RULES)


def test_names_of_requirements() -> None:
    extras = {"test": ["gpt2-server[training]", "Types-tqdm"]}
    table = {"dependencies": ["uvloop>=0.21; sys_platform != 'win32'"]}
    assert read_declared({**table, "optional-dependencies": extras}) == {
        "": ("uvloop",),
        "test": ("gpt2-server", "types-tqdm"),
    }
