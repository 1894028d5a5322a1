"""The sampler against a plain reference written from its description, row by row."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import sampler
from model.philox import uniform
from model.sampler import SamplingRow, sample


def reference_distribution(logits: list[float], row: SamplingRow) -> list[float]:
    """Probability of each id, by the order that model/sampler.py documents. Sorts and loops."""
    values = list(logits)
    for token_id, bias in row.logit_bias:
        values[token_id] += bias
    for token_id in row.banned_ids:
        values[token_id] = -math.inf
    for token_id in range(len(values)) if row.allowed is not None else ():
        if not int.from_bytes(row.allowed or b"", "little") >> token_id & 1:
            values[token_id] = -math.inf
    for token_id in {*row.prompt_ids, *row.output_ids}:
        value = values[token_id]
        penalty = row.repetition_penalty
        values[token_id] = value * penalty if value < 0 else value / penalty
    for token_id in set(row.output_ids):
        values[token_id] -= row.presence_penalty
        values[token_id] -= row.frequency_penalty * row.output_ids.count(token_id)
    values = [value / row.temperature for value in values]
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    if row.top_k > 0:
        order = order[: row.top_k]
    weight = {i: math.exp(values[i] - values[order[0]]) for i in order}
    if row.top_p < 1:
        total, mass, kept = sum(weight.values()), 0.0, 0
        for i in order:
            kept += 1
            mass += weight[i]
            if mass >= row.top_p * total:
                break
        order = order[:kept]
    order = [i for i in order if weight[i] >= row.min_p * weight[order[0]]]
    total = sum(weight[i] for i in order)
    return [weight[i] / total if i in order else 0.0 for i in range(len(values))]


def zipf_logits(rows: int, vocab_size: int, seed: int = 0) -> torch.Tensor:
    """Logits as real text has them: few likely tokens and a long tail."""
    generator = torch.Generator().manual_seed(seed)
    ranks = torch.stack([torch.randperm(vocab_size, generator=generator) for _ in range(rows)])
    return -1.2 * torch.log1p(ranks.float())


FILTERS = [
    {},
    {"top_k": 1},
    {"top_k": 7},
    {"top_p": 0.8},
    {"min_p": 0.05},
    {"top_k": 20, "top_p": 0.6},
    {"top_k": 20, "top_p": 0.9, "min_p": 0.1},
    {"temperature": 0.4, "top_p": 0.95},
    {"temperature": 1.7, "top_k": 12},
    {"logit_bias": ((3, 4.0), (5, -100.0))},
    {"banned_ids": (0, 1, 2)},
    {"allowed": bytes([0b10110, 0xFF]), "banned_ids": (2,)},
    {"allowed": bytes([0b10010]) + bytes(6), "top_k": 8, "top_p": 0.9},
    {"repetition_penalty": 1.3, "prompt_ids": (1, 2, 3), "output_ids": (4, 4, 5)},
    {"presence_penalty": 0.7, "frequency_penalty": 0.3, "output_ids": (4, 4, 5, 9)},
]


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_draws_follow_the_documented_distribution(options: dict[str, object]) -> None:
    """Chi-squared over 4,000 draws of one row; exact for tokens that must never come."""
    draws, vocab_size = 4_000, 64
    row = SamplingRow(**options)  # type: ignore[arg-type]
    logits = zipf_logits(1, vocab_size)
    expected = reference_distribution(logits[0].tolist(), row)
    rows = [dataclasses.replace(row, seed=11, token_index=i) for i in range(draws)]
    drawn = sample(logits.expand(draws, -1), rows)
    counts = torch.tensor([one.token_id for one in drawn]).bincount(minlength=vocab_size)
    chi2 = 0.0
    for count, probability in zip(counts.tolist(), expected, strict=True):
        if probability == 0:
            assert count == 0
        else:
            chi2 += (count - draws * probability) ** 2 / (draws * probability)
    freedom = sum(p > 0 for p in expected) - 1
    assert chi2 < freedom + 5 * math.sqrt(2 * freedom) + 1e-9


def reference_draw(probabilities: list[float], logits: list[float], row: SamplingRow) -> set[int]:
    """The token at the draw's uniform number; the two beside it where rounding may decide.

    Ids run in their own order, and in that of their logits where a filter is set.
    """
    order = list(range(len(probabilities)))
    if row.is_filtered:
        order = sorted(order, key=lambda i: (-probabilities[i], i))
    target = uniform(row.seed, row.choice_index, row.token_index)
    tokens, end = set(), 0.0
    for i in order:
        start, end = end, end + probabilities[i]
        if probabilities[i] and start - 1e-5 <= target < end + 1e-5:
            tokens.add(i)
    return tokens


EXACT = [
    *FILTERS,
    {"top_p": 0.97},
    {"min_p": 0.003, "temperature": 0.8},
    {"presence_penalty": 2.0, "prompt_ids": (1, 2, 3, 3), "output_ids": (4, 4, 4, 5)},
    {"frequency_penalty": 1.5, "prompt_ids": (1, 2, 3, 3), "output_ids": (4, 4, 4, 5)},
    {"repetition_penalty": 0.7, "prompt_ids": (1, 2), "output_ids": (2, 5)},
    {"repetition_penalty": 1.8, "logit_bias": ((4, 6.0), (9, -3.0)), "output_ids": (4, 9)},
    {"temperature": 0.5, "logit_bias": ((4, 3.0),), "frequency_penalty": 1.0, "output_ids": (4,)},
    {"choice_index": 3, "top_k": 50},
]


@pytest.mark.parametrize("vocab_size", [64, 2_000])
@pytest.mark.parametrize("options", EXACT, ids=str)
def test_a_draw_inverts_the_cumulative_distribution(
    options: dict[str, object], vocab_size: int
) -> None:
    """Token by token, where the chi-squared test would need very many draws to see an error."""
    draws = 300
    row = SamplingRow(**options)  # type: ignore[arg-type]
    logits = zipf_logits(1, vocab_size) / 2 + 1  # flat enough for 512 candidates not to do
    probabilities = reference_distribution(logits[0].tolist(), row)
    rows = [dataclasses.replace(row, seed=5, token_index=i) for i in range(draws)]
    num_sure = 0
    for one, asked in zip(sample(logits.expand(draws, -1), rows), rows, strict=True):
        possible = reference_draw(probabilities, logits[0].tolist(), asked)
        assert one.token_id in possible
        num_sure += len(possible) == 1
    assert num_sure > 0.8 * draws


def test_top_p_stops_as_soon_as_its_mass_is_reached() -> None:
    logits = torch.zeros(200, 4)
    rows = [SamplingRow(top_p=0.5, seed=seed) for seed in range(200)]
    assert {one.token_id for one in sample(logits, rows)} == {0, 1}


def test_greedy_rows_obey_bias_bans_and_penalties() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, -1.0]]).expand(6, -1)
    rows = [
        SamplingRow(0.0),
        SamplingRow(0.0, logit_bias=((3, 9.0),)),
        SamplingRow(0.0, banned_ids=(1, 2)),
        SamplingRow(0.0, allowed=b"\x09"),
        SamplingRow(0.0, repetition_penalty=4.0, prompt_ids=(2,), output_ids=(1,)),
        SamplingRow(0.0, presence_penalty=1.5, prompt_ids=(1,), output_ids=(2,)),
    ]
    assert [one.token_id for one in sample(logits, rows)] == [2, 3, 0, 0, 0, 1]


@pytest.mark.parametrize("u", [2**-33, 1 - 2**-33])
def test_rounding_at_either_end_draws_no_impossible_token(
    u: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "uniform", lambda *_: u)
    logits = zipf_logits(200, 700) / 3
    possible = range(100, 630)
    logits[:, : possible.start] = float("-inf")
    logits[:, possible.stop :] = float("-inf")
    for options in ({}, {"top_k": 600}, {"top_p": 0.999999}):
        rows = [SamplingRow(**options) for _ in range(200)]
        assert all(one.token_id in possible for one in sample(logits, rows))


@given(
    vocab_size=st.sampled_from([3, 64, 257, 1000, 2000]),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 5, 600, 5000]),
    top_p=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 1.0]),
    seed=st.integers(0, 2**53 - 1),
    num_ties=st.sampled_from([0, 2, 300]),
)
@settings(deadline=None, max_examples=150)
def test_a_row_draws_the_same_alone_and_in_any_batch(
    vocab_size: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int,
    num_ties: int,
) -> None:
    logits = zipf_logits(6, vocab_size, seed % 1000)
    logits[2, :num_ties] = logits[2].max()
    row = SamplingRow(temperature, top_k, top_p, min_p, seed, num_logprobs=2)
    others = [SamplingRow(seed=i, top_k=100 * i, num_logprobs=i) for i in range(5)]
    alone = sample(logits[2:3], [row])[0]
    assert sample(logits, [*others[:2], row, *others[2:]])[2] == alone
    probabilities = reference_distribution(
        logits[2].tolist(), dataclasses.replace(row, temperature=temperature or 1)
    )
    if temperature == 0:
        assert alone.token_id == int(logits[2].argmax())
    elif all(p == 0 or p > 1e-3 for p in probabilities):  # rounding decides no membership
        assert probabilities[alone.token_id] > 0


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.0}])
def test_ties_go_to_the_lower_id(options: dict[str, float]) -> None:
    logits = torch.zeros(1, 3_000)
    logits[0, 500:] = 1.0
    row = SamplingRow(**options)  # type: ignore[arg-type]
    assert sample(logits, [row])[0].token_id == 500


def test_equally_likely_tokens_are_listed_by_id() -> None:
    top = sample(torch.zeros(1, 900), [SamplingRow(num_logprobs=5)])[0].top
    assert [token_id for token_id, _ in top] == [0, 1, 2, 3, 4]


def test_top_k_keeps_exactly_k_of_equal_tokens() -> None:
    logits = torch.zeros(1, 2_000)
    rows = [SamplingRow(top_k=3, seed=seed) for seed in range(200)]
    drawn = {one.token_id for one in sample(logits.expand(200, -1), rows)}
    assert drawn == {0, 1, 2}


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-3, 1e3, 1e30])
@pytest.mark.parametrize("scale", [1.0, 1e9])
def test_no_temperature_overflows(temperature: float, scale: float) -> None:
    logits = (zipf_logits(4, 500) - 100) * scale
    rows = [SamplingRow(temperature, seed=i, top_p=0.5 + i / 6) for i in range(4)]
    for i, one in enumerate(sample(logits, rows)):
        assert 0 <= one.token_id < 500
        if temperature < 1e-3:
            assert one.token_id == int(logits[i].argmax())


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_impossible_tokens_are_never_drawn(top_p: float) -> None:
    logits = torch.full((300, 700), float("-inf"))
    logits[:, 650] = -5.0
    rows = [SamplingRow(seed=seed, top_p=top_p) for seed in range(300)]
    assert {one.token_id for one in sample(logits, rows)} == {650}


def test_logits_shifted_by_100_draw_the_same() -> None:
    """Real GPT-2 logits lie near -100, where bfloat16 steps by 0.5 and would move draws."""
    logits = (zipf_logits(64, 5_000) * 8).round() / 8  # exact after a shift in float32
    rows = [SamplingRow(seed=i, top_k=(i % 3) * 20) for i in range(64)]
    assert sample(logits - 100, rows) == sample(logits, rows)
    rounded = (logits - 100).bfloat16().float()
    assert sample(rounded, rows) != sample(logits, rows)


def test_logprobs_are_of_the_raw_distribution() -> None:
    logits = zipf_logits(1, 1_000) - 100
    raw = logits[0].double().log_softmax(-1)
    row = SamplingRow(0.5, top_k=3, logit_bias=((7, 50.0),), num_logprobs=4)
    alone = sample(logits, [dataclasses.replace(row, num_logprobs=0)])[0]
    one = sample(logits, [row])[0]
    assert one.token_id == 7
    assert one.logprob == pytest.approx(raw[7].item(), abs=1e-6)
    assert (alone.logprob, alone.top) == (one.logprob, ())
    assert sample(logits, [dataclasses.replace(row, num_logprobs=None)])[0].logprob is None
    likeliest = raw.sort(descending=True)
    assert [token_id for token_id, _ in one.top] == likeliest.indices[:4].tolist()
    assert [value for _, value in one.top] == pytest.approx(likeliest.values[:4].tolist(), abs=1e-6)


def test_the_input_is_left_alone() -> None:
    logits = zipf_logits(2, 100)
    before = logits.clone()
    sample(logits, [SamplingRow(logit_bias=((1, 3.0),)), SamplingRow(temperature=0)])
    assert torch.equal(logits, before)
