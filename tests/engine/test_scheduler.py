"""The scheduler's laws, over random arrivals, aborts and lengths, and its rules one by one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.chunk_budget import MAX_CHUNK_LEN
from engine.core import EngineCore
from engine.request import FinishReason, Request, SamplingParams, TokenOutput
from engine.scheduler import Scheduler
from engine.slot_pool import MIN_PREFIX_LEN, SlotPool
from tests.support.fake_runner import FakeRunner, expected_tokens

CONTEXT_LEN = 64
VOCAB_SIZE = 50


def make_core(
    num_slots: int, eos: tuple[int, ...] = (), context_len: int = CONTEXT_LEN
) -> tuple[EngineCore, FakeRunner]:
    runner = FakeRunner(num_slots, context_len, VOCAB_SIZE)
    scheduler = Scheduler(SlotPool(num_slots), context_len, VOCAB_SIZE, eos)
    return EngineCore(scheduler, runner), runner


def request(request_id: int, prompt: list[int], max_tokens: int = 4, **more: int) -> Request:
    priority = more.pop("priority", 0)
    params = SamplingParams(max_tokens=max_tokens, **more)  # type: ignore[arg-type]
    return Request(request_id, tuple(prompt), params, priority=priority)


def finish(core: EngineCore) -> dict[int, list[int]]:
    """Step until nothing is left; the tokens of each request."""
    tokens: dict[int, list[int]] = {}
    while core.has_work:
        for output in core.step()[0]:
            tokens.setdefault(output.request_id, []).extend(output.token_ids)
        core.scheduler.check_integrity()
    return tokens


class SchedulerMachine(RuleBasedStateMachine):
    """Requests come and go at random; conservation and results hold at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.core, self.runner = make_core(num_slots=3)
        self.open: dict[int, Request] = {}
        self.got: dict[int, list[int]] = {}
        self.next_id = 0

    @rule(
        shared=st.integers(0, 40),
        own=st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=20),
        max_tokens=st.integers(1, 12),
        seed=st.integers(0, 2),
        priority=st.integers(-1, 1),
    )
    def arrive(
        self, shared: int, own: list[int], max_tokens: int, seed: int, priority: int
    ) -> None:
        prompt = [*range(shared), *own]
        new = request(self.next_id, prompt, max_tokens, seed=seed, priority=priority)
        self.next_id += 1
        self.core.submit([new])
        self.open[new.request_id] = new
        self.got[new.request_id] = []

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.open)))
        self.core.abort([request_id, 10_000])
        del self.open[request_id]

    @precondition(lambda self: self.core.has_work)
    @rule()
    def step(self) -> None:
        """Chunks are sized by the time that steps take: a real clock would make runs differ."""
        scheduler = self.core.scheduler
        step = scheduler.schedule()
        assert step.rows
        for output in scheduler.update(step, self.runner.run(step), step_s=0.001):
            self.take(output)

    def take(self, output: TokenOutput) -> None:
        got = self.got[output.request_id]
        got += output.token_ids
        asked = self.open[output.request_id]
        expected = expected_tokens(
            asked.prompt_ids,
            asked.params.max_tokens,
            seed=asked.params.seed,
            context_len=CONTEXT_LEN,
        )
        assert got == expected[: len(got)]
        assert (output.finish_reason is FinishReason.LENGTH) == (got == expected)
        if output.finish_reason is not None:
            del self.open[output.request_id]

    @invariant()
    def slots_and_requests_are_conserved(self) -> None:
        scheduler = self.core.scheduler
        scheduler.check_integrity()
        assert scheduler.num_running + scheduler.num_waiting == len(self.open)
        pool = scheduler.pool
        assert pool.num_free + pool.num_held + pool.num_warm == pool.num_slots

    def teardown(self) -> None:
        for _ in range(1000):
            if not self.core.has_work:
                break
            self.step()
        assert not self.open
        assert self.core.scheduler.pool.num_held == 0


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(
    lengths=st.lists(
        st.tuples(st.integers(1, CONTEXT_LEN), st.integers(1, 80)), min_size=1, max_size=8
    )
)
@settings(deadline=None, max_examples=50)
def test_every_length_ends_where_the_context_or_the_limit_does(
    lengths: list[tuple[int, int]],
) -> None:
    core, _ = make_core(num_slots=4)
    requests = [request(i, [i] * p, m) for i, (p, m) in enumerate(lengths)]
    core.submit(requests)
    tokens = finish(core)
    for i, (prompt_len, max_tokens) in enumerate(lengths):
        assert len(tokens[i]) == min(max_tokens, CONTEXT_LEN + 1 - prompt_len)


def test_n_choices_compute_their_prompt_once() -> None:
    core, runner = make_core(num_slots=4)
    prompt = list(range(30))
    core.submit([request(i, prompt, 3, choice_index=i) for i in range(4)])
    tokens = finish(core)
    computed = sum(len(row.token_ids) for step in runner.steps for row in step.rows)
    assert computed == 30 + 3 * 1 + 4 * 2  # the prompt, its last token thrice, two more each
    for i in range(4):
        assert tokens[i] == expected_tokens(prompt, 3, choice_index=i, context_len=CONTEXT_LEN)


def test_a_prompt_seen_before_is_copied_and_counted_as_cached() -> None:
    core, _ = make_core(num_slots=2)
    prompt = list(range(30))
    core.submit([request(0, prompt)])
    finish(core)
    core.submit([request(1, [*prompt[:25], 49])])
    output = core.step()[0][0]
    assert output.num_cached_tokens == 25


def test_a_long_prompt_does_not_stall_those_that_run() -> None:
    core, _ = make_core(num_slots=2, context_len=1024)
    core.submit([request(0, [1, 2], 1000)])
    core.step()
    core.submit([request(1, [3] * 1000, 1)])
    steps_with_output = 0
    while True:
        outputs, _ = core.step()
        assert any(output.request_id == 0 for output in outputs)
        steps_with_output += 1
        if any(output.request_id == 1 for output in outputs):
            break
    assert steps_with_output > 1  # its prefill was spread over several steps


def test_first_come_first_served_but_priority_before() -> None:
    core, _ = make_core(num_slots=1)
    core.submit([request(0, [1]), request(1, [2]), request(2, [3], priority=-1)])
    order = []
    while core.has_work:
        order += [o.request_id for o in core.step()[0] if o.finish_reason]
    assert order == [2, 0, 1]


def test_an_end_of_text_token_ends_the_sequence_unless_ignored() -> None:
    prompt = [1, 2, 3]
    expected = expected_tokens(prompt, 10, context_len=CONTEXT_LEN)
    eos = expected[4]
    core, _ = make_core(2, eos=(eos,))
    core.submit([request(0, prompt, 10)])
    core.submit([Request(1, tuple(prompt), SamplingParams(max_tokens=10, ignore_eos=True))])
    core.submit([Request(2, tuple(prompt), SamplingParams(max_tokens=10, stop_token_ids=(7, 8)))])
    tokens = finish(core)
    assert tokens[0] == expected[: expected.index(eos) + 1]
    assert tokens[1] == expected


def test_ending_tokens_are_banned_until_the_minimum_is_reached() -> None:
    core, runner = make_core(1, eos=(5,))
    params = SamplingParams(max_tokens=4, min_tokens=2, stop_token_ids=(9,), ignore_eos=True)
    core.submit([Request(0, (1,), params)])
    finish(core)
    banned = [row.sampling.banned_ids for s in runner.steps for row in s.rows if row.sampling]
    assert banned == [(5, 9), (5, 9), (), ()]


def test_a_resumed_request_goes_on_as_if_never_interrupted() -> None:
    prompt = list(range(20))
    whole = expected_tokens(prompt, 12, context_len=CONTEXT_LEN)
    for done in range(12):
        core, runner = make_core(1)
        resumed = Request(0, tuple(prompt), SamplingParams(max_tokens=12), tuple(whole[:done]))
        core.submit([resumed])
        assert finish(core)[0] == whole[done:]
        first = next(row.sampling for row in runner.steps[0].rows)
        assert first is not None
        assert first.token_index == done


def test_a_request_aborted_after_its_step_was_scheduled_is_dropped() -> None:
    core, runner = make_core(2)
    core.submit([request(0, [1]), request(1, [2])])
    scheduler = core.scheduler
    step = scheduler.schedule()
    result = runner.run(step)
    scheduler.abort([0])
    outputs = scheduler.update(step, result, 0.001)
    assert [output.request_id for output in outputs] == [1]
    assert outputs[0].token_ids == (expected_tokens([2], 1, context_len=CONTEXT_LEN)[0],)
    assert result.drawn[0].token_id != result.drawn[1].token_id
    scheduler.check_integrity()


def test_the_last_output_carries_the_times() -> None:
    now = iter(range(100))
    runner = FakeRunner(1, CONTEXT_LEN, VOCAB_SIZE)
    scheduler = Scheduler(SlotPool(1), CONTEXT_LEN, VOCAB_SIZE, clock=lambda: float(next(now)))
    core = EngineCore(scheduler, runner)
    core.submit([request(0, [1], 2)])  # arrives at 0
    assert core.step()[0][0].times is None  # admitted at 1, first token at 2
    times = core.step()[0][0].times  # last token at 3
    assert times is not None
    assert (times.queue_s, times.prefill_s, times.decode_s) == (1.0, 1.0, 1.0)


def test_the_same_id_twice_is_an_error() -> None:
    core, _ = make_core(1)
    core.submit([request(0, [1])])
    with pytest.raises(ValueError, match="request 0 is already here"):
        core.submit([request(0, [1])])


def test_a_step_computes_no_more_prompt_tokens_than_its_budget() -> None:
    core, runner = make_core(num_slots=6, context_len=1024)
    lengths = (700, 300, 300, 900)
    core.submit([request(i, [i] * length, 1) for i, length in enumerate(lengths)])
    finish(core)
    sizes = [step.num_tokens for step in runner.steps]
    assert sizes == [MAX_CHUNK_LEN] * (sum(lengths) // MAX_CHUNK_LEN) + [
        sum(lengths) % MAX_CHUNK_LEN
    ]


def test_chunks_follow_the_time_that_steps_take() -> None:
    core, runner = make_core(num_slots=2, context_len=1024)
    core.submit([request(0, [1], 100)])

    def step(step_s: float) -> int:
        step = core.scheduler.schedule()
        core.scheduler.update(step, runner.run(step), step_s)
        return step.num_tokens

    assert step(0.010) == 1
    core.submit([request(1, [3] * 1000, 1)])
    assert step(0.010 + 128 * 0.0004) == 1 + 128  # 0.4 ms a prompt token
    assert step(0.1) == 1 + 50  # two steps of 10 ms


def test_who_waits_for_a_prefill_does_not_keep_others_waiting() -> None:
    core, runner = make_core(num_slots=3)
    core.submit([request(0, list(range(30))), request(1, list(range(30))), request(2, [40])])
    core.step()
    assert [row.request_id for row in runner.steps[0].rows] == [0, 2]


def test_the_shortest_prefix_worth_a_copy_is_waited_for() -> None:
    core, runner = make_core(num_slots=2)
    prompt = list(range(MIN_PREFIX_LEN + 1))  # the last token is always computed
    core.submit([request(i, prompt, 1, choice_index=i) for i in range(2)])
    finish(core)
    assert [step.num_tokens for step in runner.steps] == [len(prompt), 1]


def test_a_prefix_that_is_there_is_not_waited_for() -> None:
    core, runner = make_core(num_slots=4, context_len=1024)
    shared = list(range(30))
    core.submit([request(0, [*shared, 31], 1)])
    finish(core)
    core.submit([request(1, [*shared, *[32] * 900], 1), request(2, [*shared, 33], 1)])
    core.step()
    assert core.scheduler.num_waiting == 1  # all of the budget went to the first
    core.step()  # 1 goes on with its prompt, past what 2 shares with it
    assert 2 in {row.request_id for row in runner.steps[-1].rows}
    copied = runner.steps[-1].copies[-1]
    assert copied.length == 30


def test_a_known_prefix_as_long_as_the_one_to_come_is_taken_at_once() -> None:
    core, runner = make_core(num_slots=4)
    shared = list(range(30))
    core.submit([request(0, [*shared[:20], 40], 1)])
    finish(core)
    core.submit([request(1, [*shared[:20], 41, 42, 43], 1), request(2, [*shared[:20], 44], 1)])
    core.step()
    assert [row.request_id for row in runner.steps[-1].rows] == [1, 2]
    core.submit([request(3, [*shared, 45], 1), request(4, [*shared, 46], 1)])
    core.step()  # here the prefill brings ten tokens more
    assert [row.request_id for row in runner.steps[-1].rows] == [3]


def test_tokens_emitted_earlier_do_not_count_as_cached_prompt() -> None:
    core, _ = make_core(num_slots=2)
    prompt = list(range(20))
    core.submit([request(0, prompt, 9)])
    emitted = finish(core)[0][:5]
    core.submit([Request(1, tuple(prompt), SamplingParams(max_tokens=9), tuple(emitted))])
    assert core.step()[0][0].num_cached_tokens == len(prompt)
