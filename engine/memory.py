"""How much memory this process may still take: the machine's, or its cgroup's if that is less."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import psutil

_CGROUP_FILES = (
    # limit, usage: cgroup v2, then v1
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def available_bytes(cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that can be allocated before something is swapped or killed."""
    available = int(psutil.virtual_memory().available)
    for limit_name, usage_name in _CGROUP_FILES:
        limit, usage = _read(cgroup_root / limit_name), _read(cgroup_root / usage_name)
        if limit is not None and usage is not None:
            available = min(available, max(limit - usage, 0))
    return available


def return_freed_bytes() -> None:
    """Give back what the C library keeps of freed memory: loading leaves some 100 MB of it.

    Only glibc can be asked to; elsewhere nothing happens.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def _read(path: Path) -> int | None:
    """The number in a cgroup file; None where there is none, or it says ``max``."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
