"""Sampling with filters: torch against model.sampler, and the kernel against torch."""

from __future__ import annotations

import dataclasses
import math
from types import ModuleType
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import sampler
from model.kernels.gpu import launch, reference
from model.kernels.gpu.buffers import Chosen, Draws, Filters, TileBest
from model.kernels.gpu.reference_sampling import adjust, kept
from model.kernels.gpu.sampling_kernels import cut
from model.logprobs import logprobs
from model.sampler import SamplingRow
from tests.support.gpu_cases import DEVICE, empty_chosen, open_filters, random_draws

VOCAB = 67


def filters_of(rows: list[SamplingRow], vocab_size: int = VOCAB) -> Filters:
    """The same wishes as tensors."""
    filters = open_filters(len(rows), vocab_size)
    for i, row in enumerate(rows):
        filters.top_k[i], filters.top_p[i], filters.min_p[i] = row.top_k, row.top_p, row.min_p
        filters.repetition[i] = row.repetition_penalty
        filters.presence[i], filters.frequency[i] = row.presence_penalty, row.frequency_penalty
        tokens = [*row.prompt_ids, *row.output_ids]
        filters.prompt_lens[i], filters.lens[i] = len(row.prompt_ids), len(tokens)
        if tokens:
            filters.history[int(filters.slots[i]), : len(tokens)] = torch.tensor(tokens)
        for place, (token_id, bias) in enumerate(row.logit_bias):
            filters.bias_ids[i, place], filters.biases[i, place] = token_id, bias
        for place, token_id in enumerate(row.banned_ids):
            filters.banned_ids[i, place] = token_id
        filters.num_top[i] = row.num_logprobs or 0
    return filters


def scaled_by(logits: Tensor, row: SamplingRow) -> Tensor:
    """(V) -> (1, V), as model.sampler hands it to its filters."""
    return (logits - logits.amax()).unsqueeze(0) / row.temperature


def kept_by_the_sampler(scaled: Tensor, row: SamplingRow) -> set[int]:
    values, ids = torch.sort(scaled[0], descending=True, stable=True)
    total = values.exp().double().sum()
    return set(ids[: len(sampler._cumulative(values, row, total))].tolist())


wishes = st.builds(
    SamplingRow,
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 2, 7, 30, 66, 67, 500]),
    top_p=st.sampled_from([1.0, 1e-6, 0.3, 0.5, 0.7, 0.9, 0.999]),
    min_p=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
)
levels = st.lists(
    st.sampled_from([-200.0, -3.0, -1.5, -0.0, 0.0, 0.25, 2.0]), min_size=VOCAB, max_size=VOCAB
)


@settings(max_examples=60, deadline=None)
@given(wishes, levels)
def test_torch_keeps_what_the_sampler_keeps(row: SamplingRow, numbers: list[float]) -> None:
    """Few different logits: most cuts fall into ties."""
    scaled = scaled_by(torch.tensor(numbers), row)
    found = set(kept(scaled, filters_of([row]))[0].nonzero()[:, 0].tolist())
    assert found == kept_by_the_sampler(scaled, row)


ADJUSTED = [
    {"logit_bias": ((3, 4.0), (5, -100.0))},
    {"banned_ids": (0, 1)},
    {"repetition_penalty": 1.3, "prompt_ids": (1, 2, 3), "output_ids": (4, 4, 5)},
    {"presence_penalty": 0.7, "frequency_penalty": 0.3, "output_ids": (4, 4, 5, 9)},
    {"frequency_penalty": 1.5, "prompt_ids": (1, 2, 3, 3), "output_ids": (4, 4, 4, 3)},
    {
        "repetition_penalty": 0.7,
        "presence_penalty": -1.0,
        "logit_bias": ((4, 6.0), (9, -3.0)),
        "banned_ids": (9,),
        "prompt_ids": tuple(range(30)),
        "output_ids": (4, 9, 4, 60, 61, 61),
    },
]


def adjusted_by_the_kernel(logits: Tensor, filters: Filters) -> Tensor:
    """What it leaves in its scratch for rows that nothing filters."""
    chosen = empty_chosen(len(logits), logits.shape[1])
    launch.sample(logits, random_draws(len(logits), temperature=0.0), filters, chosen)
    return chosen.scratch[:, : logits.shape[1]]


@pytest.mark.parametrize("options", ADJUSTED, ids=str)
def test_logits_change_as_in_the_sampler(options: dict[str, object]) -> None:
    row = SamplingRow(**options)  # type: ignore[arg-type]
    logits = torch.randn(1, VOCAB) * 3
    expected = sampler._adjust(logits, [row])
    filters = filters_of([row])
    torch.testing.assert_close(adjust(logits, filters), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        adjusted_by_the_kernel(logits, filters), expected, rtol=1e-6, atol=1e-6
    )


def run(logits: Tensor, draws: Draws, filters: Filters, module: ModuleType = launch) -> Chosen:
    chosen = empty_chosen(len(logits), logits.shape[1])
    for tensor in (chosen.logprobs, chosen.top_logprobs, chosen.scratch):
        tensor.fill_(float("nan"))
    module.sample(logits, draws, filters, chosen)
    return chosen


def one_row(row: SamplingRow) -> Draws:
    return Draws(
        torch.tensor([row.temperature]),
        torch.tensor([row.seed]),
        torch.tensor([row.choice_index], dtype=torch.int32),
        torch.tensor([row.token_index], dtype=torch.int32),
    )


@settings(max_examples=15, deadline=None)
@given(wishes, levels, st.integers(0, 2**31))
def test_the_kernel_draws_among_the_same_tokens(
    row: SamplingRow, numbers: list[float], seed: int
) -> None:
    """Over ties and cuts of every kind; the noise then chooses the same token."""
    logits = torch.tensor([numbers])
    filters, draws = filters_of([row]), one_row(dataclasses.replace(row, seed=seed))
    found = run(logits, draws, filters).ids
    assert torch.equal(found, run(logits, draws, filters, reference).ids)


@triton.jit  # type: ignore[untyped-decorator]
def bound_kernel(
    scaled: Any,
    wishes: Any,
    bounds: Any,
    vocab_size: Any,
    ID_BITS: tl.constexpr,  # noqa: N803
    VOCAB_TILE: tl.constexpr,  # noqa: N803
) -> None:
    """The bounds of top-k, and of top-p above it; ``wishes`` are k and p."""
    bound = tl.zeros((), tl.int64)
    top_k, top_p = tl.load(wishes), tl.load(wishes + 1)
    if top_k > 0:
        bound = cut(scaled, vocab_size, bound, top_k, False, ID_BITS, VOCAB_TILE)
    if top_p < 1:
        bound = cut(scaled, vocab_size, bound, top_p, True, ID_BITS, VOCAB_TILE)
    tl.store(bounds, bound)


@settings(max_examples=15, deadline=None)
@given(wishes, levels)
def test_the_kernels_cut_is_the_samplers(row: SamplingRow, numbers: list[float]) -> None:
    """The whole kept set, over ties: by the places of tokens in the kernel's own order."""
    row = dataclasses.replace(row, min_p=0.0)
    scaled = scaled_by(torch.tensor(numbers), row)
    bounds = torch.zeros(1, dtype=torch.int64)
    asked = torch.tensor([row.top_k, row.top_p], dtype=torch.float64)
    bound_kernel[(1,)](scaled, asked, bounds, VOCAB, ID_BITS=7, VOCAB_TILE=64)
    values = scaled[0].masked_fill(scaled[0] == 0, 0.0)
    bits = values.view(torch.int32).long()
    order = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits) + 2**31
    places = order * 2**7 + (2**7 - 1 - torch.arange(VOCAB))
    is_kept = (places >= bounds) & (scaled[0].exp() > 0)
    assert set(is_kept.nonzero()[:, 0].tolist()) == kept_by_the_sampler(scaled, row)


def test_min_p_is_a_share_of_the_likeliest() -> None:
    """exp(-3) is 0.0498, and 66 such tokens would be drawn three times as often as the one."""
    logits = torch.zeros(12, VOCAB)
    logits[:, 9] = 3.0
    draws = random_draws(12)
    draws.temperatures.fill_(1.0)
    strict = run(logits, draws, filters_of([SamplingRow(min_p=0.05)] * 12)).ids
    assert strict.tolist() == [9] * 12
    loose = run(logits, draws, filters_of([SamplingRow(min_p=0.0497)] * 12)).ids
    assert len(set(loose.tolist())) > 4


def test_mixed_rows_are_what_they_are_alone_and_in_torch() -> None:
    logits = torch.randn(6, VOCAB) * 2 - 100
    rows = [
        SamplingRow(num_logprobs=3),
        SamplingRow(top_k=5, num_logprobs=0),
        SamplingRow(top_p=0.9, repetition_penalty=1.4, prompt_ids=(1, 2), output_ids=(5, 5)),
        SamplingRow(temperature=0.0, banned_ids=(2, 3), num_logprobs=4),
        SamplingRow(min_p=0.2, frequency_penalty=0.5, output_ids=(7, 7, 7)),
        SamplingRow(temperature=0.0, top_k=2, logit_bias=((11, 30.0),)),
    ]
    draws = random_draws(6, temperature=0.8)
    draws.temperatures.copy_(torch.tensor([0.8 * row.temperature for row in rows]))
    filters = filters_of(rows)
    filters.history[0, :5] = torch.tensor([3, 4, 4, 9, 9])
    together, in_torch = run(logits, draws, filters), run(logits, draws, filters, reference)
    assert torch.equal(together.ids, in_torch.ids)
    torch.testing.assert_close(together.logprobs, in_torch.logprobs)
    for i, row in enumerate(rows):
        alone = Draws(*(getattr(draws, f.name)[i : i + 1] for f in dataclasses.fields(Draws)))
        part = dataclasses.replace(
            filters,
            **{
                f.name: getattr(filters, f.name)[i : i + 1]
                for f in dataclasses.fields(Filters)
                if f.name != "history"
            },
        )
        single = run(logits[i : i + 1], alone, part)
        assert single.ids[0] == together.ids[i]
        assert single.logprobs[0] == together.logprobs[i]
        (expected,) = logprobs(logits[i : i + 1], [int(together.ids[i])], row.num_logprobs or 0)
        assert math.isclose(together.logprobs[i].item(), expected.logprob, rel_tol=1e-5)
        count = row.num_logprobs or 0
        top = zip(together.top_ids[i, :count], together.top_logprobs[i, :count], strict=True)
        for (token_id, logprob), (expected_id, expected_logprob) in zip(
            top, expected.top, strict=True
        ):
            assert int(token_id) == expected_id
            assert math.isclose(logprob.item(), expected_logprob, rel_tol=1e-5)
        assert bool(together.top_logprobs[i, count:].isnan().all())


def test_an_unfiltered_row_draws_what_the_fused_head_draws() -> None:
    """So a row's token does not depend on whether a neighbour has filters."""
    hidden, weight = torch.randn(20, 24), torch.randn(VOCAB, 24) * 0.3
    draws = random_draws(20, temperature=0.9)
    best = TileBest.allocate(20, VOCAB, 24, torch.float32, DEVICE)
    fused, logits = torch.empty(20, dtype=torch.int32), torch.empty(20, VOCAB)
    launch.head_draw(hidden, weight, draws, best, fused, 16)
    launch.logits(hidden, weight, logits, 16)
    assert torch.equal(run(logits, draws, open_filters(20, VOCAB)).ids, fused)


def test_several_tiles_of_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties that lie in different tiles, a cut between them, and a vocabulary that ends within."""
    monkeypatch.setattr(launch, "VOCAB_TILE", 16)
    logits = torch.randn(4, VOCAB)
    logits[:, [3, 20, 40, 66]] = 3.0
    rows = [
        SamplingRow(top_k=2, num_logprobs=4),
        SamplingRow(top_k=3, top_p=0.6),
        SamplingRow(repetition_penalty=1.2, prompt_ids=tuple(range(39)), num_logprobs=2),
        SamplingRow(top_p=0.5),
    ]
    draws, filters = random_draws(4), filters_of(rows)
    draws.temperatures.fill_(1.0)
    found, expected = run(logits, draws, filters), run(logits, draws, filters, reference)
    assert torch.equal(found.ids, expected.ids)
    assert found.top_ids[0].tolist() == [3, 20, 40, 66]
    assert found.ids[0].item() in {3, 20}
    torch.testing.assert_close(found.logprobs, expected.logprobs)
