"""Every variant of our configuration, written for transformers and read back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
from transformers import GPT2Config

from model.config import PRESETS, Activation, GPTConfig
from weights.formats.hf_config import config_from_hf, config_to_hf

SMALL = GPTConfig(
    vocab_size=30, num_positions=12, num_channels=16, num_layers=2, num_heads=2, num_inner=64
)

VARIANTS: dict[str, dict[str, Any]] = {
    **{activation: {"activation": activation} for activation in get_args(Activation)},
    "inner": {"num_inner": 24},
    "epsilon": {"norm_epsilon": 0.1},
    "untied": {"is_head_tied": False},
    "unscaled": {"is_attention_scaled": False},
    "layer scaled": {"is_attention_layer_scaled": True},
    "an end": {"eos_token_ids": (0,)},
    "ends": {"eos_token_ids": (29, 3)},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_comes_back(name: str) -> None:
    config = replace(SMALL, **VARIANTS[name])
    written = config_to_hf(config)
    assert config_from_hf(written, {}) == config
    # And transformers keeps every value, its own defaults notwithstanding.
    theirs = GPT2Config(**written).to_dict()
    assert {name: theirs[name] for name in written} == written
    assert config_from_hf(theirs, {}) == config


@pytest.mark.parametrize("name", PRESETS)
def test_presets_come_back(name: str) -> None:
    assert config_from_hf(config_to_hf(PRESETS[name]), {}) == PRESETS[name]


def test_an_end_without_a_row_is_left_out() -> None:
    written = config_to_hf(replace(SMALL, eos_token_ids=(30, 7)))
    assert (written["bos_token_id"], written["eos_token_id"]) == (7, 7)
    assert config_from_hf(written, {}).eos_token_ids == (7,)
