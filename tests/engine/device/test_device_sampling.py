"""Draws from device state against model/sampler.py, and against the formula of the noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.device.launch import SlotSetup
from engine.device.sampling import DrawnRows, filters_of, with_logprobs
from engine.device.state import PATCH_ROWS, PATCH_WORDS, DeviceState, apply_patch, patch_words
from engine.device.torch_decoder import TorchDecoder
from engine.request import SamplingParams
from model.config import GPTConfig
from model.decoder import GPT
from model.kernels.gpu.noise import gumbel_noise
from model.kernels.gpu.reference_sampling import adjust, kept
from model.logprobs import block_sums, logprobs, unnormalised
from model.sampler import SamplingRow, _adjust_row, _cumulative, sample
from model.slot_cache import SlotCache

VOCAB = 97
TINY = GPTConfig(VOCAB, 20, 8, 1, 1, 8)
PROMPT, OUTPUT = (4, 4, 9, 30), (9, 11, 11, 11, 50)
ENDING = (6, 50)
JUNK = 77  # stands in the history beyond the length


def logits_of(seed: int, rows: int = 1, ties: bool = False) -> Tensor:
    logits = torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3 - 100
    return logits.round() if ties else logits


def state_of(*params: SamplingParams, min_len: int = 0) -> DeviceState:
    """Slot i has ``params[i]``, and all have one history."""
    state = DeviceState.allocate(len(params), 20, torch.device("cpu"))
    known = (*PROMPT, *OUTPUT)
    setups = [
        SlotSetup(i, len(known), len(PROMPT), 20, min_len, one, ENDING, (True, True))
        for i, one in enumerate(params)
    ]
    words = torch.from_numpy(patch_words(setups, state.dummy))
    apply_patch(state, words.view(PATCH_ROWS, PATCH_WORDS))
    for i, one in enumerate(params):
        state.history[i] = JUNK
        state.history[i, : len(known)] = torch.tensor(known, dtype=torch.int32)
        state.bias_ids[i] = JUNK
        state.biases[i] = 5.0
        for place, (token_id, bias) in enumerate(one.logit_bias):
            state.bias_ids[i, place], state.biases[i, place] = token_id, bias
    return state


class Given(TorchDecoder):
    """Takes logits for hidden states."""

    def __init__(self) -> None:
        super().__init__(GPT.on_meta(TINY), SlotCache(TINY, 1))

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden


def draw(logits: Tensor, state: DeviceState, slots: Tensor, is_full: bool) -> DrawnRows:
    return Given().draw(logits, state, slots, is_full)


def kept_by_the_sampler(scaled: Tensor, row: SamplingRow) -> set[int]:
    values, ids = torch.sort(scaled, descending=True, stable=True)
    total = block_sums(unnormalised(scaled.unsqueeze(0))).sum(-1)[0]
    return set(ids[: len(_cumulative(values, row, total))].tolist())


@given(
    seed=st.integers(0, 1_000),
    ties=st.booleans(),
    top_k=st.sampled_from([0, 1, 2, 7, 50, 96, 97, 500]),
    top_p=st.sampled_from([0.01, 0.25, 0.5, 0.9375, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.25, 1.0]),
    temperature=st.sampled_from([0.1, 1.0, 3.0]),
)
@settings(deadline=None, max_examples=80)
def test_the_kept_tokens_are_the_samplers(
    seed: int, ties: bool, top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    params = SamplingParams(top_k=top_k, top_p=top_p, min_p=min_p)
    logits = logits_of(seed, ties=ties)
    scaled = (logits - logits.amax()) / temperature
    found = kept(scaled, filters_of(state_of(params), torch.tensor([0])))[0]
    row = SamplingRow(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    assert set(found.nonzero()[:, 0].tolist()) == kept_by_the_sampler(scaled[0], row)


@pytest.mark.parametrize(
    "options",
    [
        {"logit_bias": ((3, 4.0), (96, -50.0), (0, 1.0))},
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 0.5},
        {"presence_penalty": 0.9},
        {"frequency_penalty": 0.6},
        {"repetition_penalty": 1.3, "presence_penalty": -0.5, "frequency_penalty": 0.25},
        {"logit_bias": ((11, 140.0),), "repetition_penalty": 2.0},
        {},
    ],
)
@pytest.mark.parametrize("is_short", [True, False])
def test_changed_logits_are_the_samplers(options: dict[str, Any], is_short: bool) -> None:
    known = len(PROMPT) + len(OUTPUT)
    state = state_of(SamplingParams(**options), min_len=known + is_short)
    logits, slots = logits_of(1), torch.tensor([0])
    found = adjust(logits, filters_of(state, slots))
    line = logits[0].clone()
    row = SamplingRow(
        banned_ids=ENDING if is_short else (), prompt_ids=PROMPT, output_ids=OUTPUT, **options
    )
    _adjust_row(line, row)
    torch.testing.assert_close(found[0], line, rtol=1e-6, atol=0)


@pytest.mark.parametrize("is_full", [False, True])
def test_a_draw_is_the_argmax_of_its_own_noise(is_full: bool) -> None:
    params = SamplingParams(temperature=0.8, seed=2**40 + 5, choice_index=3)
    state = state_of(params)
    noise = gumbel_noise(
        torch.tensor([2**40 + 5]), torch.tensor([3]), torch.tensor([len(OUTPUT)]), VOCAB
    )
    for seed in range(20):
        logits = logits_of(seed)
        expected = int((logits / 0.8 + noise).argmax())
        assert draw(logits, state, torch.tensor([0]), is_full).ids.tolist() == [expected]


@pytest.mark.parametrize("temperature", [1e-6, 0.0])
def test_no_temperature_is_too_low(temperature: float) -> None:
    logits = logits_of(3)
    logits[0, 20] = logits[0, 60] = logits.max() + 1  # a tie goes to the lower id
    state = state_of(SamplingParams(temperature=temperature))
    for is_full in (False, True):
        found = draw(logits, state, torch.tensor([0]), is_full).ids.tolist()
        assert found == [20] if temperature == 0 else found[0] in (20, 60)


def test_a_row_is_drawn_alike_alone_and_among_others_simple_or_full() -> None:
    params = [SamplingParams(temperature=0.5 + i / 4, seed=i) for i in range(8)]
    logits, state = logits_of(4, rows=8), state_of(*params)
    slots = torch.arange(8)
    whole = draw(logits, state, slots, is_full=True)
    assert draw(logits, state, slots, is_full=False).ids.tolist() == whole.ids.tolist()
    for i in range(8):
        alone = draw(logits[i : i + 1], state, slots[i : i + 1], is_full=True)
        assert alone.logprobs is not None
        assert whole.logprobs is not None
        assert torch.equal(alone.ids, whole.ids[i : i + 1])
        assert torch.equal(alone.logprobs, whole.logprobs[i : i + 1])


def test_greedy_tokens_are_the_samplers() -> None:
    logits = logits_of(5, rows=6, ties=True)
    params = [SamplingParams(temperature=0.0, top_k=i, presence_penalty=i / 3) for i in range(6)]
    rows = [
        SamplingRow(temperature=0.0, presence_penalty=i / 3, output_ids=OUTPUT) for i in range(6)
    ]
    found = draw(logits, state_of(*params), torch.arange(6), is_full=True)
    assert found.ids.tolist() == [one.token_id for one in sample(logits, rows)]


def test_raw_log_probabilities_with_ties_by_id() -> None:
    logits = logits_of(6, rows=5, ties=True)
    ids = torch.tensor([0, 5, 96, 3, 50])
    found = with_logprobs(logits, ids)
    expected = logprobs(logits, ids.tolist(), 20)
    assert found.logprobs is not None
    assert found.top_ids is not None
    assert found.top_logprobs is not None
    assert found.logprobs.tolist() == pytest.approx([one.logprob for one in expected], abs=1e-5)
    assert found.top_ids.tolist() == [[i for i, _ in one.top] for one in expected]
    for line, one in zip(found.top_logprobs.tolist(), expected, strict=True):
        assert line == pytest.approx([value for _, value in one.top], abs=1e-5)
