"""Chunks are sized in time."""

from __future__ import annotations

from engine.chunk_budget import MAX_CHUNK_LEN, MIN_CHUNK_LEN, ChunkBudget


def test_alone_a_prompt_gets_the_largest_chunk() -> None:
    assert ChunkBudget().tokens(num_decoding=0) == MAX_CHUNK_LEN


def test_beside_running_rows_a_chunk_takes_about_two_decode_steps() -> None:
    budget = ChunkBudget()
    for _ in range(30):
        budget.observe(num_decoding=8, num_prompt_tokens=0, step_s=0.010)
        budget.observe(num_decoding=8, num_prompt_tokens=100, step_s=0.030)
    assert 98 <= budget.tokens(num_decoding=8) <= 102  # 0.2 ms a prompt token, 20 ms to spend


def test_a_chunk_is_neither_tiny_nor_huge() -> None:
    slow, fast = ChunkBudget(), ChunkBudget()
    for budget, step_s in ((slow, 10.0), (fast, 1e-6)):
        budget.observe(4, 0, 0.01)
        budget.observe(4, 100, step_s)
    assert slow.tokens(4) == MIN_CHUNK_LEN
    assert fast.tokens(4) == MAX_CHUNK_LEN


def test_before_anything_is_known_a_chunk_beside_running_rows_is_a_quarter() -> None:
    budget = ChunkBudget()
    assert budget.tokens(num_decoding=1) == MAX_CHUNK_LEN // 4
    budget.observe(num_decoding=1, num_prompt_tokens=0, step_s=0.01)
    assert budget.tokens(num_decoding=1) == MAX_CHUNK_LEN // 4


def test_a_prompt_computed_alone_costs_all_of_its_step() -> None:
    budget = ChunkBudget()
    budget.observe(num_decoding=8, num_prompt_tokens=0, step_s=0.010)
    budget.observe(num_decoding=0, num_prompt_tokens=100, step_s=0.020)
    assert budget.tokens(num_decoding=8) == 100  # 0.2 ms a prompt token, 20 ms to spend


def test_one_slow_step_does_not_decide_alone() -> None:
    budget = ChunkBudget()
    budget.observe(0, 100, 0.020)
    for step_s in (0.010, 0.010, 0.060):
        budget.observe(8, 0, step_s)
    assert budget.tokens(8) == 100


def test_what_steps_take_now_counts() -> None:
    budget = ChunkBudget()
    budget.observe(0, 100, 0.020)
    for step_s in (*[0.010] * 20, *[0.020] * 5):
        budget.observe(8, 0, step_s)
    assert budget.tokens(8) == 200
