"""Which tokens a step sees."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from training.batches import Batches
from training.errors import TrainingError

TOKENS = np.arange(16 * 12 + 5, dtype=np.uint16)  # 12 stretches of 16, and a rest


def batches(seed: int = 0) -> Batches:
    return Batches(TOKENS, window_len=16, batch_tokens=32, seed=seed)


def test_targets_are_the_next_ids_and_positions_those_of_the_stretch() -> None:
    for window_len in (4, 16):
        batch = batches().at(3, window_len)
        assert batch.ids.shape == batch.positions.shape == batch.targets.shape == (32,)
        assert torch.equal(batch.targets, batch.ids + 1)  # ids count up, and so does what follows
        assert torch.equal(batch.positions, batch.ids % 16)
        starts = batch.positions.view(-1, window_len)[:, :1]
        ramp = starts + torch.arange(window_len)
        assert torch.equal(batch.positions.view(-1, window_len), ramp)


@pytest.mark.parametrize("num_short_steps", [0, 4])
def test_an_epoch_sees_every_token_once(num_short_steps: int) -> None:
    """Also across the change from short windows to long ones."""
    seen: Counter[int] = Counter()
    for step in range(6):
        window_len = 4 if step < num_short_steps else 16
        seen.update(batches().at(step, window_len).ids.tolist())
    assert set(seen.values()) == {1}
    assert len(seen) == 16 * 12


def test_a_short_step_reaches_more_stretches_and_all_positions() -> None:
    long, short = batches().at(0, 16), batches().at(0, 4)
    assert len(set((long.ids // 16).tolist())) == 2
    assert len(set((short.ids // 16).tolist())) == 8
    assert set(short.positions.tolist()) == set(range(16))


def test_a_step_depends_on_seed_and_step_alone() -> None:
    """What makes a resumed run see the same tokens: no state."""
    forward, backward = batches(), batches()
    there = [forward.at(step, 16).ids for step in range(20)]
    back = [backward.at(step, 16).ids for step in reversed(range(20))]
    assert all(torch.equal(a, b) for a, b in zip(there, reversed(back), strict=True))
    assert not torch.equal(batches(seed=1).at(0, 16).ids, there[0])
    assert not torch.equal(there[0], there[6])  # another epoch, another order


def test_parts_are_whole_windows_of_the_same_batch() -> None:
    batch = batches().at(0, 16)
    parts = list(batch.parts(2))
    assert [len(part.ids) for part in parts] == [16, 16]
    assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)


def test_too_little_text_is_refused_with_both_numbers() -> None:
    with pytest.raises(TrainingError, match="has 16 tokens, one window needs 17"):
        Batches(TOKENS[:16], window_len=16, batch_tokens=16, seed=0)
