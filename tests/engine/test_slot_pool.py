"""The pool gives every slot to one owner at most and loses none."""

from __future__ import annotations

import pytest

from engine.slot_pool import MIN_PREFIX_LEN, PrefixMatch, SlotPool, common_prefix_len

LONG = list(range(40))


def filled(pool: SlotPool, tokens: list[int]) -> int:
    """A held slot that contains ``tokens``."""
    slot = pool.take()
    pool.fill(slot, tokens, len(tokens))
    return slot


def test_a_short_content_is_not_kept() -> None:
    pool = SlotPool(2)
    pool.release(filled(pool, LONG[: MIN_PREFIX_LEN - 1]))
    assert (pool.num_free, pool.num_warm) == (2, 0)
    pool.check_integrity()


def test_a_released_slot_stays_warm_and_is_found_by_its_prefix() -> None:
    pool = SlotPool(2)
    slot = filled(pool, LONG)
    pool.release(slot)
    assert (pool.num_free, pool.num_warm) == (1, 1)
    assert pool.longest_prefix([*LONG[:30], 99]) == PrefixMatch(slot, 30)
    assert pool.longest_prefix(LONG[: MIN_PREFIX_LEN - 1]) is None
    assert pool.longest_prefix([7, *LONG]) is None


def test_only_the_computed_part_of_a_held_slot_is_offered() -> None:
    pool = SlotPool(2)
    slot = pool.take()
    pool.fill(slot, LONG, 20)
    assert pool.longest_prefix(LONG) == PrefixMatch(slot, 20)


def test_a_warm_slot_whose_whole_content_matches_is_taken_over() -> None:
    pool = SlotPool(3)
    slot = filled(pool, LONG)
    pool.release(slot)
    assert pool.take(pool.longest_prefix([*LONG, 99])) == slot
    pool.check_integrity()


def test_a_warm_slot_with_more_than_the_prefix_is_left_for_others() -> None:
    pool = SlotPool(2)
    slot = filled(pool, LONG)
    pool.release(slot)
    assert pool.take(pool.longest_prefix([*LONG[:20], 99])) != slot
    assert pool.longest_prefix(LONG) == PrefixMatch(slot, 40)
    pool.check_integrity()


def test_the_last_slot_is_taken_over_even_if_more_is_in_it() -> None:
    pool = SlotPool(1)
    slot = filled(pool, LONG)
    pool.release(slot)
    assert pool.take(pool.longest_prefix([*LONG[:20], 99])) == slot
    pool.check_integrity()


def test_the_warm_slot_used_longest_ago_goes_first() -> None:
    pool = SlotPool(3)
    contents = [[n, *LONG] for n in range(3)]
    slots = [filled(pool, content) for content in contents]
    for slot in slots:
        pool.release(slot)
    used = pool.longest_prefix([*contents[0][:30], 99])
    assert used is not None
    assert pool.take(used) == slots[1]  # free: none; oldest but for the prefix: 1
    assert pool.take() == slots[2]  # 0 was used as a prefix just now
    assert pool.take() == slots[0]
    with pytest.raises(IndexError):
        pool.take()
    pool.check_integrity()


def test_filling_a_slot_that_nobody_holds_is_an_error() -> None:
    with pytest.raises(KeyError, match="slot 0 is not held"):
        SlotPool(1).fill(0, LONG, 3)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [([], [], 0), ([1, 2], [1, 2, 3], 2), ([1, 9], [1, 2], 1), ([5], [6], 0), (LONG, LONG, 40)],
)
def test_common_prefix(a: list[int], b: list[int], expected: int) -> None:
    assert common_prefix_len(a, b) == expected
    assert common_prefix_len(b, a) == expected


def test_of_several_slots_the_longest_prefix_counts_and_then_the_lowest_slot() -> None:
    pool = SlotPool(5)
    lengths = (20, 30, 30, 18)
    slots = [filled(pool, [*LONG[:length], 99, 98]) for length in lengths]
    assert pool.longest_prefix(LONG) == PrefixMatch(min(slots[1], slots[2]), 30)
    pool.release(slots[1])
    pool.release(slots[2])
    assert pool.longest_prefix(LONG) == PrefixMatch(min(slots[1], slots[2]), 30)
    assert pool.longest_prefix(LONG[:25]) == PrefixMatch(min(slots[1], slots[2]), 25)


def test_prefixes_of_slots_given_away_are_forgotten() -> None:
    pool = SlotPool(1)
    for n in range(5):
        pool.release(filled(pool, [n, *LONG]))
    assert len(pool._by_prefix) == 1
    assert pool.longest_prefix([0, *LONG]) is None
