"""What the runner hands on: every parameter to the sampler, every position to the network."""

from __future__ import annotations

import msgspec
import pytest
import torch

from engine import runner as runner_module
from engine.request import SamplingParams
from engine.runner import Runner
from engine.step import PrefixCopy, SamplingState, Step, StepResult, StepRow
from model.attention import CausalAttention
from model.config import GPTConfig
from model.decoder import GPT
from model.network import TorchNetwork
from model.sampler import Sampled, SamplingRow
from model.slot_cache import SlotCache

SCORING = ("num_prompt_logprobs", "scored_from")
CONFIG = GPTConfig(64, 32, 32, 2, 2, 64)
PARAMS = SamplingParams(
    temperature=0.7,
    top_k=5,
    top_p=0.9,
    min_p=0.01,
    seed=11,
    choice_index=2,
    logit_bias=((3, 1.5),),
    repetition_penalty=1.1,
    presence_penalty=0.2,
    frequency_penalty=0.3,
    num_logprobs=4,
)


@pytest.fixture
def gpt() -> GPT:
    torch.manual_seed(0)
    return GPT(CONFIG).eval()


@pytest.fixture
def runner(gpt: GPT) -> Runner:
    cache = SlotCache(CONFIG, 3)
    for slot in range(3):
        cache.poison(slot)
    return Runner(TorchNetwork(gpt, cache), cache)


def test_every_parameter_reaches_the_sampler(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[SamplingRow] = []

    def sample(_logits: torch.Tensor, rows: list[SamplingRow]) -> list[Sampled]:
        seen.extend(rows)
        return [Sampled(7, -1.5, ((7, -1.5), (8, -2.0)))]

    monkeypatch.setattr(runner_module, "sample", sample)
    of_state = {"prompt_ids": (1, 2), "output_ids": (3,), "banned_ids": (9,), "allowed": b"\x05"}
    state = SamplingState(PARAMS, 6, **of_state)  # type: ignore[arg-type]
    (drawn,) = runner.run(Step((), (StepRow(0, 0, 0, (1, 2), state),))).drawn
    assert (drawn.token_id, drawn.logprob, drawn.top) == (7, -1.5, ((7, -1.5), (8, -2.0)))
    expected = msgspec.structs.asdict(PARAMS)
    for ending in ("max_tokens", "stop_token_ids", "ignore_eos", "min_tokens", "grammar", *SCORING):
        del expected[ending]
    expected |= {"token_index": 6, **of_state}
    assert seen == [SamplingRow(**expected)]


def test_rows_are_at_their_positions_and_draw_after_their_last_token(
    runner: Runner, gpt: GPT
) -> None:
    """Two prefills, one of them in two chunks beside it, against the whole windows' logits."""
    draw = SamplingState(SamplingParams(temperature=0.0, num_logprobs=0), 0)
    first, second = (5, 6, 7, 8, 9), (20, 21, 22)
    assert runner.run(Step((), (StepRow(0, 1, 0, first[:2], None),))) == StepResult()
    rows = (StepRow(1, 0, 0, second, draw), StepRow(0, 1, 2, first[2:], draw))
    for drawn, ids in zip(runner.run(Step((), rows)).drawn, (second, first), strict=True):
        with torch.inference_mode():
            hidden = gpt(
                torch.tensor(ids), torch.arange(len(ids)), CausalAttention(CONFIG, len(ids))
            )
            expected = gpt.logits(hidden[-1:]).log_softmax(-1)[0]
        assert drawn.token_id == int(expected.argmax())
        assert drawn.logprob == pytest.approx(expected.max().item(), abs=1e-5)


def test_copies_are_made_in_order_before_the_rows(runner: Runner) -> None:
    draw = SamplingState(SamplingParams(temperature=0.0, num_logprobs=0), 0)
    prompt = tuple(range(20))
    whole = runner.run(Step((), (StepRow(0, 0, 0, prompt, draw),))).drawn
    copies = (PrefixCopy(0, 1, 18), PrefixCopy(1, 2, 15))
    rows = (StepRow(1, 0, 0, (60, 61), None), StepRow(2, 2, 15, prompt[15:], draw))
    (drawn,) = runner.run(Step(copies, rows)).drawn
    assert drawn.token_id == whole[0].token_id
    assert drawn.logprob == pytest.approx(whole[0].logprob, abs=1e-5)
