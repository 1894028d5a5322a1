"""The generator against the published test vectors, and the range of its uniforms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.philox import Words4, philox4x32, uniform

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # Random123's known answers, kat_vectors, philox4x32 with 10 rounds
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter: Words4, key: tuple[int, int], expected: Words4) -> None:
    assert philox4x32(key, counter) == expected


@given(st.integers(0, 2**53 - 1), st.integers(0, 2**20), st.integers(0, 2**20))
def test_a_uniform_is_never_0_or_1(seed: int, choice_index: int, token_index: int) -> None:
    assert 0 < uniform(seed, choice_index, token_index) < 1


def test_every_part_of_the_key_matters() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (2**32, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert len({uniform(*key) for key in keys}) == len(keys)


def test_a_draw_is_keyed_by_seed_choice_and_token_in_a_fixed_layout() -> None:
    """Another layout changes every seeded answer: DRAW_SCHEME in engine/loader.py must change."""
    words = [philox4x32((7, 1), (5, 3, 0, 0))[0], philox4x32((ONES, ONES), (0, 0, 0, 0))[0]]
    assert uniform(2**32 + 7, choice_index=3, token_index=5) == (words[0] + 0.5) / 2**32
    assert uniform(2**64 - 1, 0, 0) == (words[1] + 0.5) / 2**32
