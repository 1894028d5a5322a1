"""What the tests of training share: a small corpus, small runs, and one thread."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.training.tiny_run import INTERRUPTED_OPTIONS, Configure, tiny_config, write_corpus
from training.pretrain import pretrain


@pytest.fixture
def corpus_dir(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


@pytest.fixture
def configure(corpus_dir: Path) -> Configure:
    """PretrainConfig of a tiny run; keyword arguments replace its values."""
    return partial(tiny_config, corpus_dir.parent)


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with INTERRUPTED_OPTIONS that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    write_corpus(folder / "corpus")
    config = tiny_config(folder, **INTERRUPTED_OPTIONS, num_threads=1)
    pretrain(config)
    return config.out


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Nothing here is large enough for two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
