"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported: threads that wait for each other sleep instead of spinning, so that
# tests do not crawl on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Before triton is imported, which somebody else's library may do: the GPU kernels run in its
# interpreter. On a machine with a GPU, TRITON_INTERPRET=0 runs the same tests there.
os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public test data; tests that need it are skipped where it is absent."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"the test data folder {path} is not on this machine")
    return path
