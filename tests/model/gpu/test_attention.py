"""Attention over slots: against float64, in any company, with NaN wherever nobody may read."""

from __future__ import annotations

import itertools
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.attention import Span
from model.kernels.gpu import launch, reference
from model.kernels.gpu.buffers import LayerCache, QueryTiles, Rows, SplitScratch
from model.kernels.gpu.decoder import most_query_tiles, query_tiles
from model.kernels.gpu.tiles import KEY_SPLIT
from tests.support.gpu_cases import ints

HEADS, SLOTS, POSITIONS, SCALE = 2, 4, 300, 0.2
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def random_cache(lens: dict[int, int], head_len: int, dtype: torch.dtype) -> LayerCache:
    """Slots with the given lengths written; NaN everywhere else."""
    shape = (SLOTS, HEADS, POSITIONS, head_len)
    keys, values = (torch.full(shape, float("nan"), dtype=dtype) for _ in range(2))
    for slot, length in lens.items():
        for tensor in (keys, values):
            tensor[slot, :, :length] = torch.randn(HEADS, length, head_len).to(dtype)
    return LayerCache(keys, values)


def decode(
    queries: Tensor, cache: LayerCache, slots: list[int], lens: list[int], module: ModuleType
) -> Tensor:
    num_splits = -(-POSITIONS // KEY_SPLIT)
    lead = (len(slots), HEADS, num_splits)
    nan = float("nan")
    splits = SplitScratch(
        torch.full((*lead, cache.keys.shape[3]), nan), torch.full((*lead, 2), nan)
    )
    out = torch.full(queries.shape, nan, dtype=cache.keys.dtype)
    rows = Rows(ints(slots), ints(slots), ints([length - 1 for length in lens]))
    module.decode_attention(queries, cache, rows, SCALE, splits, out)
    return out


def prefill(
    queries: Tensor, cache: LayerCache, spans: list[Span], module: ModuleType, num_tiles: int = 8
) -> Tensor:
    out = torch.full(queries.shape, float("nan"), dtype=cache.keys.dtype)
    tiles = QueryTiles(query_tiles(spans, num_tiles))
    module.prefill_attention(queries, cache, tiles, SCALE, out)
    return out


def exact(query: Tensor, cache: LayerCache, slot: int, length: int) -> Tensor:
    """One query, (C), by the formula in float64."""
    heads = query.double().view(HEADS, -1)
    keys, values = (x[slot, :, :length].double() for x in (cache.keys, cache.values))
    weights = (torch.einsum("hd,htd->ht", heads, keys) * SCALE).softmax(-1)
    return torch.einsum("ht,htd->hd", weights, values).flatten()


@pytest.mark.parametrize("module", [launch, reference], ids=["kernel", "torch"])
@pytest.mark.parametrize(
    ("dtype", "head_len"),
    [(torch.float32, 16), (torch.bfloat16, 24), (torch.float16, 64)],
    ids=str,
)
def test_decode_is_attention_up_to_the_rows_own_length(
    module: ModuleType, dtype: torch.dtype, head_len: int
) -> None:
    cache = random_cache({1: 300, 2: 300}, head_len, dtype)
    slots = [1, 2] * 3
    for slot, length in ((1, 300), (2, 129)):
        cache.keys[slot, :, length:] = float("nan")
        cache.values[slot, :, length:] = float("nan")
    lens = [300, 1, 256, 128, 127, 129]
    queries = torch.randn(len(lens), HEADS * head_len)
    found = decode(queries, cache, slots, lens, module)
    for i, length in enumerate(lens):
        expected = exact(queries[i], cache, slots[i], length)
        torch.testing.assert_close(
            found[i].double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
        )


def test_a_rows_bits_depend_on_neither_neighbours_bucket_nor_slot() -> None:
    cache = random_cache({0: 10, 1: 290, 3: 200}, 16, torch.float32)
    cache.keys[2], cache.values[2] = cache.keys[1], cache.values[1]
    queries = torch.randn(7, HEADS * 16)
    slots, lens = [0, 3, 1, 0, 3, 1, 0], [10, 200, 290, 5, 129, 100, 1]
    together = decode(queries, cache, slots, lens, launch)
    alone = decode(queries[2:3], cache, [2], [290], launch)
    assert torch.equal(together[2], alone[0])


@pytest.mark.parametrize("module", [launch, reference], ids=["kernel", "torch"])
@pytest.mark.parametrize(
    ("dtype", "head_len"), [(torch.float32, 16), (torch.bfloat16, 8), (torch.float16, 24)], ids=str
)
def test_prefill_is_causal_attention_of_each_span(
    module: ModuleType, dtype: torch.dtype, head_len: int
) -> None:
    """Spans that begin at 0, in the middle of a tile of keys, and at its end."""
    spans = [Span(3, 0, 18), Span(0, 59, 5), Span(1, 64, 17), Span(2, 130, 1)]
    cache = random_cache({span.slot: span.end for span in spans}, head_len, dtype)
    queries = torch.randn(sum(span.length for span in spans), HEADS * head_len)
    found = prefill(queries, cache, spans, module)
    row = 0
    for span in spans:
        for position in range(span.start, span.end):
            expected = exact(queries[row], cache, span.slot, position + 1)
            torch.testing.assert_close(
                found[row].double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
            )
            row += 1


def test_chunk_boundaries_and_company_change_no_bit_of_prefill() -> None:
    """Numpy's products, too, are the same for a row of the same place in a tile."""
    cache = random_cache({0: 90, 1: 30}, 16, torch.float32)
    queries = torch.randn(90, HEADS * 16)
    whole = prefill(queries, cache, [Span(0, 0, 90)], launch)
    for cuts in ([0, 90], [0, 1, 47, 90]):
        for start, end in itertools.pairwise(cuts):
            chunk = torch.cat([torch.randn(7, HEADS * 16), queries[start:end]])
            spans = [Span(1, 20, 7), Span(0, start, end - start)]
            found = prefill(chunk, cache, spans, launch)
            assert torch.equal(found[7:], whole[start:end])


def test_a_padding_tile_writes_nothing() -> None:
    cache = random_cache({0: 5}, 16, torch.float32)
    out = torch.full((8, HEADS * 16), 7.0)
    tiles = QueryTiles(query_tiles([Span(0, 0, 5)], 3))
    launch.prefill_attention(torch.randn(8, HEADS * 16), cache, tiles, SCALE, out)
    assert bool((out[5:] == 7).all())
    assert not bool((out[:5] == 7).any())


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 60)), min_size=1))
def test_enough_tiles_are_enough(places: list[tuple[int, int]]) -> None:
    spans = [Span(slot, start, length) for slot, (start, length) in enumerate(places)]
    num_rows = sum(span.length for span in spans)
    table = query_tiles(spans, most_query_tiles(num_rows, len(spans)))
    assert int(table[:, 3].sum()) == num_rows
    assert all(start // 16 == (start + max(n, 1) - 1) // 16 for _, _, start, n in table.tolist())


def test_tiles_cover_each_query_once_and_refuse_what_does_not_fit() -> None:
    table = query_tiles([Span(2, 5, 33), Span(1, 0, 1)], 5).tolist()
    assert table == [[2, 0, 5, 11], [2, 11, 16, 16], [2, 27, 32, 6], [1, 33, 0, 1], [0, 0, 0, 0]]
    with pytest.raises(ValueError, match="4 tiles of queries do not fit in 3"):
        query_tiles([Span(2, 5, 33), Span(1, 0, 1)], 3)
