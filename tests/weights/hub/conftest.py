"""A hub on this machine and an empty cache, in the process of the test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from tests.support.fake_hub import FakeHub, fake_hub
from weights.hub.checks import Destination
from weights.hub.fetch import fetch
from weights.hub.find import find
from weights.hub.names import parse_name
from weights.hub.transfer import Hub


@pytest.fixture
def server() -> Iterator[FakeHub]:
    """The hub, without any repository."""
    with fake_hub() as server:
        yield server


@pytest.fixture
def hub(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """How it is reached. Downloads come in small pieces, and retries do not wait."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1_000)
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield Hub(server.url, tmp_path / "cache")
    close_session()


@pytest.fixture
def said() -> list[str]:
    """What people were told."""
    return []


@pytest.fixture
def bring(hub: Hub, tmp_path: Path, said: list[str]) -> Callable[[str], Path]:
    """Find and fetch a name; the snapshot."""

    def bring(text: str) -> Path:
        name = parse_name(text)
        assert name is not None
        found = find(hub, name, said.append)
        return fetch(hub, found, Destination(tmp_path / "converted" / "dest"), said.append)

    return bring
