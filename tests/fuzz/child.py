"""One target in libFuzzer, guided by the lines that it reaches: ``python -m tests.fuzz.child NAME
[libFuzzer's options]``. The process ends with the run.
"""

from __future__ import annotations

import random
import sys

import atheris

from tests.fuzz.mutation import damaged

with atheris.instrument_imports(include=["model", "weights", "engine", "server", "training"]):
    from tests.fuzz.targets import TARGETS


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's own changes, or those that keep JSON what it is."""
    draw = random.Random(seed)
    if data and draw.random() < 0.5:
        return damaged(draw, [data])[:max_size]
    mutated: bytes = atheris.Mutate(data, max_size)
    return mutated


def main(name: str, *options: str) -> None:
    """Does not return."""
    target = TARGETS[name]
    atheris.Setup([name, *options], target.run, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
