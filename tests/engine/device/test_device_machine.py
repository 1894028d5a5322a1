"""The pipelined core under random submits, aborts and steps: conservation, and the right tokens."""

from __future__ import annotations

from functools import cache

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.device.core import DeviceCore
from engine.request import Request, SamplingParams
from tests.support.device import LateStream, answers, make_core

PROMPTS = ((1,), tuple(range(30)), (*range(30), 31, 32), tuple(range(60, 160, 2)))
MOST = 12


@cache
def expected(prompt: int, seed: int, min_tokens: int) -> tuple[int, ...]:
    """All tokens up to the longest limit, of a core that runs nothing else."""
    asked = Request(0, PROMPTS[prompt], params(seed, min_tokens, MOST))
    return answers(make_core(num_slots=1, num_ahead=1), [asked])[0][0]


def params(seed: int, min_tokens: int, max_tokens: int) -> SamplingParams:
    """Ends at a token that comes every now and then."""
    return SamplingParams(
        max_tokens=max_tokens,
        seed=seed,
        min_tokens=min_tokens,
        stop_token_ids=tuple(range(0, 211, 9)),
        top_k=30 * (seed % 2),
    )


class DeviceMachine(RuleBasedStateMachine):
    """Requests come and go; the stream runs behind."""

    def __init__(self) -> None:
        super().__init__()
        torch.set_num_threads(1)
        self.core: DeviceCore = make_core()
        self.open: dict[int, tuple[int, ...]] = {}
        self.got: dict[int, tuple[int, ...]] = {}
        self.next_id = 0

    @initialize(num_ahead=st.sampled_from([1, 2, 5, 8]), num_slots=st.integers(1, 4))
    def start(self, num_ahead: int, num_slots: int) -> None:
        stream = LateStream(is_strict=False)
        self.core = make_core(stream, num_slots=num_slots, num_ahead=num_ahead)

    @rule(
        prompt=st.integers(0, len(PROMPTS) - 1),
        seed=st.integers(0, 3),
        min_tokens=st.sampled_from([0, 3]),
        max_tokens=st.integers(1, MOST),
        done=st.integers(0, 3),
    )
    def arrive(self, prompt: int, seed: int, min_tokens: int, max_tokens: int, done: int) -> None:
        whole = expected(prompt, seed, min_tokens)[:max_tokens]
        done = min(done, len(whole) - 1)
        asked = Request(
            self.next_id, PROMPTS[prompt], params(seed, min_tokens, max_tokens), whole[:done]
        )
        self.core.submit([asked])
        self.open[self.next_id] = whole[done:]
        self.got[self.next_id] = ()
        self.next_id += 1

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(sorted(self.open)))
        self.core.abort([gone, 10_000])
        del self.open[gone]

    @precondition(lambda self: self.core.has_work)
    @rule()
    def step(self) -> None:
        for output in self.core.step()[0]:
            request_id = output.request_id
            self.got[request_id] += output.token_ids
            whole = self.open[request_id]
            assert self.got[request_id] == whole[: len(self.got[request_id])]
            assert (output.finish_reason is not None) == (self.got[request_id] == whole)
            if output.finish_reason is not None:
                del self.open[request_id]

    @invariant()
    def slots_and_requests_are_conserved(self) -> None:
        scheduler = self.core.scheduler
        scheduler.check_integrity()
        assert scheduler.num_running + scheduler.num_waiting == len(self.open)

    def teardown(self) -> None:
        for _ in range(1_000):
            if not self.core.has_work:
                break
            self.step()
        assert not self.open
        assert self.core.scheduler.pool.num_held == 0


TestDeviceMachine = DeviceMachine.TestCase
TestDeviceMachine.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
