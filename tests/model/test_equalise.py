"""Outlier channels moved between a norm and a matrix: the same function, kinder to int8."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from engine.networks import CacheShape, Weights, build_network
from model.attention import Span
from model.config import GPTConfig
from model.decoder import parameter_shapes
from model.equalise import equalise, norms, norms_before

CONFIG = GPTConfig(
    vocab_size=200, num_positions=64, num_channels=96, num_layers=3, num_heads=3, num_inner=384
)
POST_NORM = replace(CONFIG, norm_placement="post")
OUTLIERS = [3, 40, 41, 77]


def tensors(config: GPTConfig = CONFIG) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        name: torch.randn(shape) * 0.2 + ("ln_" in name and name.endswith("weight"))
        for name, shape in parameter_shapes(config).items()
    }


def with_outliers(plain: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same function: some channels after each norm are 30 times as large."""
    changed = {name: tensor.clone() for name, tensor in plain.items()}
    for index in range(CONFIG.num_layers):
        for norm, matrix in (("ln_1", "attn.c_attn"), ("ln_2", "mlp.c_fc")):
            for part in ("weight", "bias"):
                changed[f"h.{index}.{norm}.{part}"][OUTLIERS] *= 30
            changed[f"h.{index}.{matrix}.weight"][:, OUTLIERS] /= 30
    return changed


@torch.inference_mode()
def logits(given: dict[str, torch.Tensor], dtype: str, config: GPTConfig = CONFIG) -> torch.Tensor:
    network, _, _ = build_network(Weights(config, given, {}), dtype, None, CacheShape(1, 64))
    ids = [(7 * i) % 200 for i in range(64)]
    return network.logits(network.hidden(ids, [Span(0, 0, 64)], list(range(64))))


def rise(expected: torch.Tensor, got: torch.Tensor) -> float:
    """Of the log-loss on the reference's own distribution, as a share of it."""
    reference = expected.log_softmax(-1)
    weights = reference.exp()
    kl = (weights * (reference - got.log_softmax(-1))).sum(-1).mean()
    return float(kl / -(weights * reference).sum(-1).mean())


def test_the_function_stays() -> None:
    plain = tensors()
    changed = equalise(CONFIG, plain)
    assert set(changed) == set(plain)
    assert not torch.equal(changed["h.0.ln_1.weight"], plain["h.0.ln_1.weight"])
    assert rise(logits(plain, "float32"), logits(changed, "float32")) < 1e-6


def test_planted_outliers_are_undone() -> None:
    """int8 within 1 % of the float32 loss, as without outliers; unequalised it is not."""
    plain = tensors()
    planted = with_outliers(plain)
    expected = logits(plain, "float32")
    assert rise(expected, logits(planted, "float32")) < 1e-6
    assert rise(expected, logits(planted, "int8")) < 0.01


def test_constants_of_keys_and_values_cost_int8_nothing() -> None:
    """Biases tens of times as large as what varies, and the function stays as it is."""
    plain = tensors()
    for layer in range(CONFIG.num_layers):
        plain[f"h.{layer}.attn.c_attn.bias"][96:] *= 100
    expected = logits(plain, "float32")
    changed = equalise(CONFIG, plain)
    assert rise(expected, logits(changed, "float32")) < 1e-6
    assert not changed["h.1.attn.c_attn.bias"][96:].any()
    assert rise(expected, logits(plain, "int8")) < 0.01


def test_norms_of_the_residual_stream_stay() -> None:
    """Of a post-norm decoder only the constants of keys and values go."""
    plain = tensors(POST_NORM)
    changed = equalise(POST_NORM, plain)
    assert {name for name in plain if not torch.equal(plain[name], changed[name])} == {
        f"h.{layer}.attn.{linear}.bias" for layer in range(3) for linear in ("c_attn", "c_proj")
    }
    expected = logits(plain, "float32", POST_NORM)
    assert rise(expected, logits(changed, "float32", POST_NORM)) < 1e-6
    assert rise(expected, logits(plain, "int8", POST_NORM)) < 0.01


def test_which_norm_is_read_by_which_matrix() -> None:
    shallow = replace(CONFIG, num_layers=2)
    post = replace(shallow, norm_placement="post")
    assert not list(norms(post))
    assert list(norms_before(shallow)) == list(norms(shallow))
    assert list(norms_before(post)) == [
        ("h.0.ln_1", "h.0.mlp.c_fc.weight"),
        ("h.0.ln_2", "h.1.attn.c_attn.weight"),
        ("h.1.ln_1", "h.1.mlp.c_fc.weight"),
    ]
    untied = replace(post, is_head_tied=False)
    assert list(norms_before(untied))[3:] == [("h.1.ln_2", "lm_head.weight")]


def test_factors_follow_the_outliers() -> None:
    planted = with_outliers(tensors())
    changed = equalise(CONFIG, planted)
    for name in ("h.1.ln_1.weight", "h.2.ln_2.weight"):
        before, after = planted[name].abs(), changed[name].abs()
        assert before.max() / before.median() > 10
        assert after.max() / after.median() < 8


@pytest.mark.parametrize("size", [0.0, 1e30])
def test_channels_that_are_off_or_huge_stay_finite(size: float) -> None:
    plain = tensors()
    plain["h.0.ln_1.weight"][5] = size
    plain["h.0.ln_1.bias"][5] = 0
    plain["h.0.attn.c_attn.weight"][:, 6] = 0
    for tensor in equalise(CONFIG, plain).values():
        assert tensor.isfinite().all()
