"""A configuration as config.json has it: there and back, and with what older ones lack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from model.config import PRESETS, ConfigError, GPTConfig


@pytest.mark.parametrize("name", PRESETS)
def test_presets_come_back(name: str) -> None:
    assert GPTConfig.from_dict(PRESETS[name].to_dict()) == PRESETS[name]


def test_without_a_norm_placement_it_is_gpt_2s() -> None:
    values = PRESETS["gpt2"].to_dict()
    del values["norm_placement"]
    assert GPTConfig.from_dict(values) == PRESETS["gpt2"]


def test_other_names_must_be_there_and_no_more() -> None:
    values = PRESETS["gpt2"].to_dict()
    del values["num_heads"]
    with pytest.raises(ConfigError) as refused:
        GPTConfig.from_dict({**values, "num_hands": 2})
    assert refused.value.problems == ["unknown field 'num_hands'", "missing field 'num_heads'"]


@pytest.mark.parametrize("value", ["middle", None, True])
def test_an_impossible_norm_placement_is_named(value: Any) -> None:
    with pytest.raises(
        ConfigError, match=f"^norm_placement must be one of pre, post, got {value!r}"
    ):
        replace(PRESETS["gpt"], norm_placement=value)


@pytest.mark.parametrize("ids", [(-1,), (1.5,), ("a",), (True,), (2**31,), ([0],)])
def test_ends_of_text_are_token_ids(ids: Any) -> None:
    with pytest.raises(ConfigError, match=r"^eos_token_ids must be token ids, got "):
        replace(PRESETS["gpt"], eos_token_ids=ids)


def test_flags_are_true_or_false() -> None:
    changes: Any = {"is_head_tied": 1}
    with pytest.raises(ConfigError, match=r"^is_head_tied must be true or false, got 1$"):
        replace(PRESETS["gpt"], **changes)


def test_the_sizes_of_gpt() -> None:
    """The GPT paper, section 4.1, and the released vocabulary."""
    gpt = PRESETS["gpt"]
    assert (gpt.num_layers, gpt.num_channels, gpt.num_heads, gpt.num_inner) == (12, 768, 12, 3072)
    assert (gpt.num_positions, gpt.vocab_size, gpt.activation) == (512, 40_478, "gelu_tanh")
    assert gpt.is_post_norm
    assert gpt.is_head_tied
    assert not gpt.eos_token_ids
