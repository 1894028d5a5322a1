"""A slice of fuzzing that every run of the tests can afford: seeds, and some hundred damages."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.fuzz.mutation import damaged
from tests.fuzz.target import Folder, Part, Target, is_taken
from tests.fuzz.targets import TARGETS

DAMAGES = 40


@pytest.mark.parametrize("name", TARGETS)
def test_only_the_projects_own_errors(name: str) -> None:
    """Good inputs are taken, or nothing would be looked at behind the first check."""
    target = TARGETS[name]
    seeds = target.seeds()
    assert all(map(target.run, seeds))
    draw = random.Random(name)
    for _ in range(DAMAGES):
        target.run(damaged(draw, seeds))


def folder(open_path: Callable[[object], object]) -> Folder:
    """A file ``a`` that is looked at by ``open_path``."""
    return Folder({"a": b"x"}, (Part("a", b"x"),), open_path, (ValueError,))


def test_an_error_that_is_no_refusal_comes_through() -> None:
    def read(_path: object) -> object:
        raise LookupError

    with pytest.raises(LookupError):
        folder(read).run(b"\0x")


def test_a_refusal_must_say_why() -> None:
    def refuse(_path: object) -> object:
        raise ValueError

    with pytest.raises(AssertionError, match="says nothing"):
        folder(refuse).run(b"\0x")
    assert not is_taken(lambda: int("x"), (ValueError,))


def test_damage_reaches_numbers_deep_in_json() -> None:
    seed = b'\0{"a": [{"b": {"c": [1, "x", 7]}}]}'
    draw = random.Random(1)
    found = {damaged(draw, [seed]) for _ in range(500)}
    assert any(b'"c": [1, "x", 1152921504606846976]' in one for one in found)
    assert all(one[:1] == b"\0" for one in found)


def test_targets_are_seen_to_refuse() -> None:
    """Of one that takes whatever comes, the damage would never have met a reader."""
    text = {"sse_text"}

    def refuses(target: Target) -> bool:
        draw = random.Random(3)
        return not all(target.run(damaged(draw, target.seeds())) for _ in range(20))

    assert [name for name, target in TARGETS.items() if not refuses(target)] == [*text]
