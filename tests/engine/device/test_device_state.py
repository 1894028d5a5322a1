"""Slots are set up by patches, and a step appends where it may and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.device.launch import SlotSetup
from engine.device.state import (
    MAX_ENDING_IDS,
    NO_ID,
    PATCH_ROWS,
    PATCH_WORDS,
    DeviceState,
    advance,
    apply_patch,
    patch_words,
)
from engine.request import SamplingParams

PARAMS = SamplingParams(
    temperature=0.7,
    top_k=2**40,
    top_p=0.9,
    min_p=0.05,
    seed=2**53 - 1,
    choice_index=2**31 - 1,
    logit_bias=((3, 1.5), (4, -2.0)),
    repetition_penalty=1.2,
    presence_penalty=-0.5,
    frequency_penalty=0.25,
    num_logprobs=5,
)


def setup(slot: int, params: SamplingParams = PARAMS, **other: int) -> SlotSetup:
    sizes = {"num_known": 7, "prompt_len": 5, "max_len": 30, "min_len": 8, **other}
    return SlotSetup(slot=slot, params=params, ending_ids=(2, 9), ends=(True, False), **sizes)


def patched(*setups: SlotSetup, num_slots: int = 4) -> DeviceState:
    state = DeviceState.allocate(num_slots, 40, torch.device("cpu"))
    words = patch_words(setups, state.dummy)
    apply_patch(state, torch.from_numpy(words).view(PATCH_ROWS, PATCH_WORDS))
    return state


def test_a_patch_sets_every_field_of_its_slot() -> None:
    state = patched(setup(2))
    found = {name: tensor[2].tolist() for name, tensor in state.tensors.items()}
    expected: dict[str, object] = {
        "length": 7,
        "prompt_len": 5,
        "max_len": 30,
        "min_len": 8,
        "active": 0,
        "top_k": 2**31 - 1,
        "choice_index": 2**31 - 1,
        "seed": 2**53 - 1,
        "num_biases": 2,
        "num_top": 5,
    }
    assert {name: found[name] for name in expected} == expected
    floats = ("temperature", "top_p", "min_p", "repetition", "presence", "frequency")
    assert [found[name] for name in floats] == pytest.approx([0.7, 0.9, 0.05, 1.2, -0.5, 0.25])
    assert found["ending_ids"] == [2, 9] + [NO_ID] * (MAX_ENDING_IDS - 2)
    assert found["ends"] == [1, 0] + [0] * (MAX_ENDING_IDS - 2)


def test_a_patch_leaves_other_slots_and_the_dummy_as_they_were() -> None:
    before = DeviceState.allocate(4, 40, torch.device("cpu"))
    after = patched(setup(2))
    for name, tensor in after.tensors.items():
        for slot in (0, 1, 3, after.dummy):
            if (name, slot) != ("repetition", after.dummy):
                np.testing.assert_array_equal(tensor[slot], before.tensors[name][slot], name)


def test_as_many_slots_at_once_as_a_patch_has_lines() -> None:
    state = patched(*(setup(i, num_known=i + 1) for i in range(PATCH_ROWS)), num_slots=PATCH_ROWS)
    assert state.length[:PATCH_ROWS].tolist() == list(range(1, PATCH_ROWS + 1))


def test_a_slot_that_is_not_active_is_the_dummys() -> None:
    state = patched(setup(0), setup(1))
    state.active[1] = 1
    assert state.live(torch.tensor([0, 1, 4, 1], dtype=torch.int32)).tolist() == [4, 1, 4, 1]


def test_a_step_appends_and_says_who_goes_on() -> None:
    """Rows: goes on; ends by a token; an ending id that is ignored; the limit; may not draw."""
    state = patched(*(setup(i) for i in range(3)), setup(3, max_len=8), num_slots=5)
    state.history[:, 7] = 33
    slots = torch.tensor([0, 1, 2, 3, 5])
    draws = torch.tensor([True, True, True, True, False])
    tokens, goes_on = advance(state, slots, torch.tensor([8, 2, 9, 8, 8]), draws)
    assert tokens.tolist() == [8, 2, 9, 8, NO_ID]
    assert goes_on.tolist() == state.active[slots].tolist() == [1, 0, 1, 0, 0]
    assert state.length[slots].tolist() == [8, 8, 8, 8, 1]
    assert state.history[slots, 7].tolist() == [8, 2, 9, 8, 33]


def test_who_may_not_draw_keeps_its_history() -> None:
    state = patched(setup(0))
    state.history[0, 7] = 33
    advance(state, torch.tensor([0]), torch.tensor([8]), torch.tensor([False]))
    assert state.history[0, 7] == 33


def test_the_last_token_and_its_position() -> None:
    state = patched(setup(0), setup(1, num_known=3))
    state.history[0, 6], state.history[1, 2] = 11, 12
    ids, positions = state.last_ids(torch.tensor([1, 0]))
    assert (ids.tolist(), positions.tolist()) == ([12, 11], [2, 6])
