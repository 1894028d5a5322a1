"""Channels of similar size before quantising, and no constants in what is quantised.

What a norm multiplies, the next matrix divides.

A norm's gain and bias divided by s and the matching columns of the matrix multiplied by s leave
the function as it was, and s decides how much of a channel's size is in the activations and how
much in the weights: SmoothQuant (Xiao et al. 2023, section 4), with the size of the activations
read off the norm instead of calibration data. Real GPT-2 has channels that are tens of times
larger than the others, and they would leave the others a few of the 255 levels.

Keys and values lose their biases, which a cache in int8 would have to round with them: what
every key has in common adds the same to all scores of a query, and the softmax takes it out again;
what every value has in common reaches the result whole, since weights add up to 1, so it
can as well be added behind the projection.

Of a post-norm decoder the norms stay: what they multiply is the residual stream as well, and that
nothing divides again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from model.config import GPTConfig
from model.lora import Adapter, Thin

NORMAL_RANGE = 3.0
"""Standard deviations that a normalised channel is taken to reach."""


def equalise(config: GPTConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` with every norm and the matrix behind it rescaled, if that matrix is there.

    An untied head is one of these matrices; a tied one is the embedding too and stays. What is
    rescaled is float32.
    """
    out = dict(tensors)
    for norm, matrix in norms(config):
        if matrix not in tensors:
            continue
        gain, bias, weight = (tensors[name].float() for name in (*_names(norm), matrix))
        s = column_scales(gain, bias, weight)
        gain_name, bias_name = _names(norm)
        out |= {gain_name: gain / s, bias_name: bias / s, matrix: weight * s}
    for layer in range(config.num_layers):
        out |= _without_constants(f"h.{layer}.attn.", tensors)
    return out


def _without_constants(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The biases of c_attn and c_proj with those of keys and values moved or gone."""
    names = [prefix + name for name in ("c_attn.bias", "c_proj.weight", "c_proj.bias")]
    if not all(name in tensors for name in names):
        return {}
    bias, weight, behind = (tensors[name].double() for name in names)
    query, _, value = bias.chunk(3)  # (3C) -> (C) each
    alone = torch.cat((query, torch.zeros(2 * len(query), dtype=torch.float64)))
    return {names[0]: alone.float(), names[2]: (behind + weight @ value).float()}


def equalised_adapter(
    config: GPTConfig, tensors: Mapping[str, Tensor], adapter: Adapter
) -> Adapter:
    """``adapter`` of the decoder of ``tensors``, beside what :func:`equalise` makes of that.

    A follows the columns of its matrix. Values come to c_proj without their constants, so what its
    thin matrices made of these is an offset.
    """
    out = dict(adapter)
    for norm, matrix in norms(config):
        name = matrix.removesuffix(".weight")
        if thin := out.get(name):
            s = column_scales(*(tensors[key].float() for key in (*_names(norm), matrix)))
            out[name] = Thin(thin.a * s, thin.b, thin.offset)
    for layer in range(config.num_layers):
        name = f"h.{layer}.attn.c_proj"
        if thin := out.get(name):
            _, _, value = tensors[f"h.{layer}.attn.c_attn.bias"].double().chunk(3)
            out[name] = Thin(thin.a, thin.b, (thin.a.double() @ value).float())
    return out


def norms(config: GPTConfig) -> Iterator[tuple[str, str]]:
    """Each norm whose output nothing but one matrix reads, and the name of that."""
    return iter(()) if config.is_post_norm else norms_before(config)


def norms_before(config: GPTConfig) -> Iterator[tuple[str, str]]:
    """The norm whose output is the input of a matrix, and the name of that matrix.

    A tied head is none of these, and before the first matrix of a post-norm decoder there is none.
    """
    if config.is_post_norm:
        yield from _post_norms_before(config)
        return
    for layer in range(config.num_layers):
        yield f"h.{layer}.ln_1", f"h.{layer}.attn.c_attn.weight"
        yield f"h.{layer}.ln_2", f"h.{layer}.mlp.c_fc.weight"
    if not config.is_head_tied:
        yield "ln_f", "lm_head.weight"


def _post_norms_before(config: GPTConfig) -> Iterator[tuple[str, str]]:
    matrices = [f"h.{layer}.attn.c_attn.weight" for layer in range(1, config.num_layers)]
    for layer, behind in enumerate([*matrices, "" if config.is_head_tied else "lm_head.weight"]):
        yield f"h.{layer}.ln_1", f"h.{layer}.mlp.c_fc.weight"
        if behind:
            yield f"h.{layer}.ln_2", behind


def column_scales(gain: Tensor, bias: Tensor, weight: Tensor) -> Tensor:
    """s of each input of ``weight`` (M, K), (K): both sides get the square root of the product.

    A channel that is always zero, or that nothing reads, keeps its scale.
    """
    activation = NORMAL_RANGE * gain.abs() + bias.abs()
    column = weight.abs().amax(0)  # (M, K) -> (K)
    s = (activation / column).sqrt()
    is_used = (activation > 0) & (column > 0) & torch.isfinite(s) & (s > 0)
    if not is_used.any():
        return torch.ones_like(s)
    return torch.where(is_used, s / s[is_used].median(), 1.0)


def input_energy(gain: Tensor, bias: Tensor) -> Tensor:
    """The mean square of a norm's output, (K): a normalised channel has mean 0 and variance 1."""
    return gain.float().square() + bias.float().square()


def _names(norm: str) -> tuple[str, str]:
    return f"{norm}.weight", f"{norm}.bias"
