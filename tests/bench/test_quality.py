"""The peers' quantisation as it is simulated, and the costs on a small network."""

from __future__ import annotations

import torch

from bench.quality import (
    Windows,
    bits_per_byte,
    costs,
    q4_0,
    q8_0,
    with_int8_cache,
    with_outliers,
)
from model.attention import CausalAttention
from model.config import GPTConfig
from model.decoder import GPT, parameter_shapes

CONFIG = GPTConfig(60, 16, 64, 2, 2, 128)


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        name: torch.randn(shape) * 0.2 + ("ln_" in name and name.endswith("weight"))
        for name, shape in parameter_shapes(CONFIG).items()
    }


def text() -> Windows:
    ids = torch.randint(0, 60, (3, 17))
    return Windows("text", ids[:, :-1], ids[:, 1:], 100)


def test_q4_0_has_sixteen_steps_from_the_extreme() -> None:
    """-8 is the extreme itself; the other end has one step less."""
    block = torch.zeros(1, 32)
    block[0, :4] = torch.tensor([-16.0, 16.0, 3.2, -0.9])
    assert q4_0(block)[0, :5].tolist() == [-16, 14, 4, 0, 0]
    assert q4_0(-block)[0, :4].tolist() == [16, -14, -4, 0]
    assert (q4_0(torch.zeros(2, 64)) == 0).all()


def test_q8_0_has_a_scale_for_each_block() -> None:
    blocks = torch.zeros(1, 64)
    blocks[0, :2] = torch.tensor([127.0, 3.4])
    blocks[0, 32:34] = torch.tensor([12700.0, 340.0])
    assert q8_0(blocks)[0, :2].tolist() == [127, 3]
    assert q8_0(blocks)[0, 32:34].tolist() == [12700, 300]


def test_planted_outliers_are_another_checkpoint_of_the_same_function() -> None:
    plain = tensors()
    planted = with_outliers(CONFIG, plain)
    assert planted["h.0.ln_1.weight"].abs().max() > 10 * plain["h.0.ln_1.weight"].abs().max()
    logits = []
    for given in (plain, planted):
        gpt = GPT.on_meta(CONFIG)
        gpt.load_state_dict({"lm_head.weight": given["wte.weight"], **given}, assign=True)
        ids = torch.arange(16)
        with torch.inference_mode():
            logits.append(gpt.logits(gpt(ids, ids, CausalAttention(CONFIG, 16))))
    assert (logits[0] - logits[1]).abs().max() < 1e-3


def test_bits_per_byte_of_a_network_that_knows_nothing() -> None:
    gpt = GPT.on_meta(CONFIG)
    zeros = {name: torch.zeros(shape) for name, shape in parameter_shapes(CONFIG).items()}
    gpt.load_state_dict({"lm_head.weight": zeros["wte.weight"], **zeros}, assign=True)
    expected = 48 * torch.log2(torch.tensor(60.0)) / 100
    assert abs(bits_per_byte(gpt, text()) - expected) < 1e-4


def test_every_precision_is_compared_with_float32() -> None:
    found = list(costs(CONFIG, tensors(), [text()]))
    names = (
        "float32, bfloat16, int8, int8 served, int4, int4 served, "
        "Q8_0, Q8_0 served, Q4_0, Q4_0 served"
    )
    assert [cost.precision for cost in found] == names.split(", ")
    assert found[0].rise == 0
    for cost in found[1:]:
        assert 0 < abs(cost.rise) < 0.2, cost
        assert abs(cost.bits_per_byte / found[0].bits_per_byte - 1 - cost.rise) < 1e-6
    assert len({cost.rise for cost in found}) == len(found)  # each rounds something of its own


def test_an_int8_cache_rounds_keys_and_values_alone() -> None:
    seen: list[torch.Tensor] = []

    def attend(
        layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        seen.extend((query, key, value))
        return query

    given = [torch.randn(5, 64) for _ in range(3)]
    with_int8_cache(CONFIG, attend)(0, *given)
    assert torch.equal(seen[0], given[0])
    for got, plain in zip(seen[1:], given[1:], strict=True):
        heads = plain.view(5, 2, 32)
        limit = heads.abs().amax(-1, keepdim=True) / 254 * 1.001
        assert (got.view(5, 2, 32) - heads).abs().max() > 0
        assert ((got.view(5, 2, 32) - heads).abs() <= limit).all()
