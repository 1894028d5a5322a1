"""A bar for work that is counted in bytes, silent where it is quick or nobody looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def byte_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """What is to be told (done_bytes, total_bytes)."""
    from tqdm import tqdm

    with tqdm(
        desc=description, unit="B", unit_scale=True, leave=False, delay=0.5, disable=None
    ) as bar:

        def show(done_bytes: int, total_bytes: int) -> None:
            bar.total = total_bytes
            bar.update(done_bytes - bar.n)

        yield show
