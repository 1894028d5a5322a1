"""A headless Chromium on the page of a live server. Skipped where there is no browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from model.heads import head_shape
from model.tasks import TaskConfig
from tests.support.live_server import ROOT, LiveServer, live_server
from weights.checkpoint import open_checkpoint
from weights.task import TrainedTask, save_task
from weights.task_description import HEAD_BIAS, HEAD_WEIGHT, SPECIAL

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

    from tests.browser.desk import Desk

# `make test` deselects what is here, and need not have the library to do so.
collect_ignore_glob = [] if find_spec("playwright") else ["test_*.py"]

BUNDLED = ROOT / "weights" / "bundled"
SENTIMENT = ROOT / "weights" / "bundled_tasks" / "sentiment"
KEY = "sk-page-0123456789abcdef"
NAMES = ("chromium", "chromium-browser", "google-chrome")

TASKS = {
    "nli": TaskConfig("entailment", 64, labels=("yes", "no", "maybe")),
    "sts": TaskConfig("similarity", 64, is_regression=True, score_range=(0.0, 5.0), join="sum"),
    "copa": TaskConfig("multiple_choice", 64),
}
"""Heads of random numbers: what is looked at is the page."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"there is no browser on this machine ({', '.join(NAMES)})")
    with sync_playwright() as playwright:
        # Containers often have no user namespaces for its sandbox; it opens our own pages only.
        yield playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The bundled checkpoint, its sentiment, and a head of each other form."""
    folder = tmp_path_factory.mktemp("tasks")
    bundled = open_checkpoint(BUNDLED)
    options = ["--task", f"sentiment={SENTIMENT}", "--max-connections", "64"]
    for seed, (name, config) in enumerate(TASKS.items()):
        generator = torch.Generator().manual_seed(seed)
        shape = head_shape(config, bundled.config.num_channels)
        tensors = {
            SPECIAL: torch.randn(3, bundled.config.num_channels, generator=generator) * 0.1,
            HEAD_WEIGHT: torch.randn(shape, generator=generator) * 0.02,
            HEAD_BIAS: torch.randn(shape[0], generator=generator) * 0.1,
        }
        task = TrainedTask(name, config, "head", tensors, bundled.config, bundled.weights_hash)
        save_task(folder / name, task, {"origin": "a test"})
        options += ["--task", f"{name}={folder / name}"]
    with live_server(BUNDLED, *options) as live:
        yield live


@pytest.fixture(scope="session")
def keyed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\nadmin {KEY.replace('page', 'admin')}\n")
    with live_server(BUNDLED, "--api-key-file", str(keys)) as live:
        yield live


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab of its own. Whatever a test does: no request leaves the origin, no script fails."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    tab = context.new_page()
    complaints: list[str] = []
    asked: list[str] = []

    def on_line(line: ConsoleMessage) -> None:
        # Chromium itself writes down each answer of 400 and more, which some tests ask for.
        if not line.text.startswith("Failed to load resource"):
            complaints.append(line.text)

    def on_request(request: Request) -> None:
        asked.append(request.url)

    tab.on("pageerror", lambda error: complaints.append(f"{error}"))
    tab.on("console", on_line)
    tab.on("request", on_request)
    yield tab
    origin = "/".join(tab.url.split("/")[:3]) + "/"
    context.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith(origin)] == []


@pytest.fixture
def desk(page: Page, server: LiveServer) -> Desk:
    """The page, loaded."""
    from tests.browser.desk import Desk

    return Desk.open(page, server.url)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: ``PAGE_PICTURES``, or a folder of this run."""
    folder = os.environ.get("PAGE_PICTURES")
    path = Path(folder) if folder else tmp_path_factory.mktemp("pictures")
    path.mkdir(parents=True, exist_ok=True)
    return path
