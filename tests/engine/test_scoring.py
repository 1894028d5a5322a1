"""Log probabilities of prompts: whatever the chunks, the company, the cache, a death between."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import chunk_budget
from engine.core import EngineCore
from engine.loader import build_core
from engine.messages import EngineConfig
from engine.open_requests import OpenRequest
from engine.request import FinishReason, Request, SamplingParams, TokenLogprob, TokenOutput
from engine.scheduler import Scheduler
from engine.slot_pool import SlotPool
from engine.stream import RequestStream, join_outputs
from model.attention import CausalAttention
from model.config import GPTConfig
from model.decoder import GPT, parameter_shapes
from tests.support.fake_runner import FakeRunner, expected_logprob, expected_tokens

CONTEXT_LEN = 64
CONFIG = GPTConfig(1_003, 256, 64, 2, 4, 128)


def fake_core(num_slots: int) -> tuple[EngineCore, FakeRunner]:
    runner = FakeRunner(num_slots, CONTEXT_LEN)
    return EngineCore(Scheduler(SlotPool(num_slots), CONTEXT_LEN, 50), runner), runner


def run(core: EngineCore, *requests: Request) -> list[TokenOutput]:
    """The joined outputs, in the order of the requests."""
    outputs: dict[int, list[TokenOutput]] = {request.request_id: [] for request in requests}
    core.submit(requests)
    while core.has_work:
        for output in core.step()[0]:
            outputs[output.request_id].append(output)
        core.scheduler.check_integrity()
    return [join_outputs(outputs[request.request_id]) for request in requests]


def scoring(request_id: int, prompt: list[int], **options: Any) -> Request:
    params = SamplingParams(**{"max_tokens": 0, "num_prompt_logprobs": 2, **options})
    return Request(request_id, tuple(prompt), params)


def expected_scores(prompt: list[int], scored_from: int) -> list[float]:
    return [expected_logprob(prompt[:i], prompt[i]) for i in range(scored_from, len(prompt))]


one_request = st.tuples(
    st.integers(0, 40),  # tokens shared with the others
    st.lists(st.integers(0, 49), min_size=1, max_size=20),
    st.integers(0, 4),  # max_tokens
    st.none() | st.integers(1, 70),  # scored_from
)


@settings(deadline=None)
@given(asked=st.lists(one_request, min_size=1, max_size=6), num_slots=st.integers(1, 3))
def test_scored_and_plain_requests_mixed(
    asked: list[tuple[int, list[int], int, int | None]], num_slots: int
) -> None:
    core, runner = fake_core(num_slots)
    requests = []
    for i, (shared, own, max_tokens, scored_from) in enumerate(asked):
        is_scored = scored_from is not None
        options = {"num_prompt_logprobs": 0 if is_scored else None, "scored_from": scored_from or 1}
        requests.append(scoring(i, [*range(shared), *own], max_tokens=max_tokens, **options))
    for request, output in zip(requests, run(core, *requests), strict=True):
        prompt, params = list(request.prompt_ids), request.params
        is_scored = params.num_prompt_logprobs is not None
        scores = expected_scores(prompt, params.scored_from) if is_scored else []
        assert [one.logprob for one in output.prompt_logprobs] == scores
        drawn = expected_tokens(prompt, params.max_tokens, context_len=CONTEXT_LEN)
        assert list(output.token_ids) == drawn
        assert output.finish_reason is FinishReason.LENGTH
    sampled = [row for step in runner.steps for row in step.rows if row.sampling]
    assert all(requests[row.request_id].params.max_tokens for row in sampled)


def test_chunks_bring_their_scores_as_they_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_budget, "MAX_CHUNK_LEN", 10)
    core, _ = fake_core(1)
    prompt = list(range(25))
    core.submit([scoring(0, prompt, max_tokens=1)])
    sizes = []
    while core.has_work:
        sizes += [(len(output.prompt_logprobs), len(output.token_ids)) for output in core.step()[0]]
    assert sizes == [(10, 0), (10, 0), (4, 1)]


def test_the_last_token_of_a_prompt_that_is_only_scored_needs_no_position() -> None:
    core, runner = fake_core(1)
    prompt = [i % 50 for i in range(CONTEXT_LEN + 1)]
    (output,) = run(core, scoring(0, prompt))
    assert len(output.prompt_logprobs) == CONTEXT_LEN
    assert sum(step.num_tokens for step in runner.steps) == CONTEXT_LEN
    (output,) = run(core, scoring(1, [7]))
    assert (output.prompt_logprobs, output.finish_reason) == ((), FinishReason.LENGTH)


def test_a_prefix_is_copied_only_before_what_is_asked_about() -> None:
    core, _ = fake_core(2)
    context = list(range(30))
    run(core, scoring(0, [*context, 40], max_tokens=1, num_prompt_logprobs=None))
    outputs = run(
        core,
        scoring(1, [*context, 41, 42]),
        scoring(2, [*context, 43, 44], scored_from=30),
        scoring(3, [*context, 45], scored_from=30, num_prompt_logprobs=None),
    )
    assert [output.num_cached_tokens for output in outputs] == [0, 29, 29]


def test_continuations_of_one_context_compute_it_once() -> None:
    core, runner = fake_core(4)
    context = list(range(30))
    run(core, *(scoring(i, [*context, 40 + i], scored_from=30) for i in range(4)))
    assert sum(step.num_tokens for step in runner.steps) == 30 + 3


def test_what_was_scored_is_not_brought_twice() -> None:
    """An engine that takes over goes on where the one before stopped."""
    prompt = list(range(20))
    request = scoring(0, prompt, max_tokens=3)
    (whole,) = run(fake_core(1)[0], request)
    for num_scored, num_drawn in ((0, 0), (5, 0), (18, 0), (19, 1), (19, 2)):
        entry = OpenRequest(request, stream=RequestStream(0, lambda _: None))
        entry.take(TokenOutput(0, (), prompt_logprobs=whole.prompt_logprobs[:num_scored]))
        entry.take(TokenOutput(0, whole.token_ids[:num_drawn]))
        (rest,) = run(fake_core(1)[0], entry.resumed())
        assert rest.prompt_logprobs == whole.prompt_logprobs[num_scored:]
        assert rest.token_ids == whole.token_ids[num_drawn:]


# -- the real network ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        name: torch.randn(shape) * (0.5 if "wte" in name else 0.1) + ("ln_" in name)
        for name, shape in parameter_shapes(CONFIG).items()
    }


def real_core(
    tensors: dict[str, torch.Tensor], dtype: str = "float32", kernels: str = "auto"
) -> EngineCore:
    config = EngineConfig("random", dtype=dtype, kernels=kernels, num_slots=8)
    return build_core(CONFIG, tensors, config, "hash", "source")[0]


PROMPT = torch.randint(0, 1_003, (200,), generator=torch.Generator().manual_seed(2)).tolist()


def test_scores_are_those_of_the_whole_window(tensors: dict[str, torch.Tensor]) -> None:
    (output,) = run(real_core(tensors), scoring(0, PROMPT, num_prompt_logprobs=3))
    gpt = GPT(CONFIG).eval()
    gpt.load_state_dict(tensors, strict=False)
    with torch.inference_mode():
        hidden = gpt(torch.tensor(PROMPT), torch.arange(200), CausalAttention(CONFIG, 200))
        expected = gpt.logits(hidden).log_softmax(-1)
    for i, one in enumerate(output.prompt_logprobs):
        assert one.logprob == pytest.approx(expected[i, PROMPT[i + 1]].item(), abs=2e-4)
        values, ids = expected[i].topk(3)
        assert [token_id for token_id, _ in one.top] == ids.tolist()
        assert [value for _, value in one.top] == pytest.approx(values.tolist(), abs=2e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernels", ["torch", "auto"])
def test_the_same_bits_alone_in_company_in_chunks_and_after_a_cached_context(
    tensors: dict[str, torch.Tensor], dtype: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scoring(0, PROMPT)
    core = real_core(tensors, dtype, kernels)
    (alone,) = run(core, asked)
    others = [scoring(i, PROMPT[i : i + 90 * i], max_tokens=3) for i in range(1, 6)]
    assert run(core, *others, asked)[-1].prompt_logprobs == alone.prompt_logprobs
    (later,) = run(core, msgspec.structs.replace(asked, params=_from(asked, 150)))
    assert later.num_cached_tokens == 149
    assert later.prompt_logprobs == alone.prompt_logprobs[149:]
    monkeypatch.setattr(chunk_budget, "MAX_CHUNK_LEN", 37)
    (chunked,) = run(real_core(tensors, dtype, kernels), asked)
    assert chunked.prompt_logprobs == alone.prompt_logprobs


def _from(request: Request, scored_from: int) -> SamplingParams:
    return msgspec.structs.replace(request.params, scored_from=scored_from)


def test_a_prompt_is_scored_with_the_bits_it_was_drawn_with(
    tensors: dict[str, torch.Tensor],
) -> None:
    core = real_core(tensors)
    params = SamplingParams(max_tokens=20, temperature=1.0, seed=4, num_logprobs=5)
    (drawn,) = run(core, Request(0, tuple(PROMPT[:30]), params))
    (scored,) = run(core, scoring(1, [*PROMPT[:30], *drawn.token_ids], num_prompt_logprobs=5))
    assert scored.prompt_logprobs[29:] == drawn.logprobs


def test_each_request_gets_as_many_alternatives_as_it_asked_for(
    tensors: dict[str, torch.Tensor],
) -> None:
    counts = (0, 5, 20)
    asked = [scoring(i, PROMPT[: 20 + i], num_prompt_logprobs=n) for i, n in enumerate(counts)]
    outputs = run(real_core(tensors), *asked)
    for count, output in zip(counts, outputs, strict=True):
        assert {len(one.top) for one in output.prompt_logprobs} == {count}
        if count:
            assert all(_is_descending(one) for one in output.prompt_logprobs)


def _is_descending(one: TokenLogprob) -> bool:
    values = [value for _, value in one.top]
    return values == sorted(values, reverse=True) and values[0] >= one.logprob
