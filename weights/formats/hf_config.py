"""config.json of a Hugging Face GPT-2 or GPT, and generation_config.json: read, and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.config import Activation, ConfigError, GPTConfig
from weights.formats.hf_families import (
    ACTIVATION_NAMES,
    FAMILIES,
    GPT_ACTIVATION_NAMES,
    Family,
)
from weights.stored import CheckpointError, read_object

# The other names that the sizes answer to.
_ALIASES: Mapping[str, str] = {
    "n_positions": "max_position_embeddings",
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
}


def read_config(path: Path, architecture: str | None = None) -> tuple[GPTConfig | None, list[str]]:
    """The configuration of the directory ``path``, if it can be read, and every problem of it.

    ``architecture`` is one that is read beside the decoders alone.
    Raises CheckpointError, if there is no config.json or no object in it.
    """
    values = read_object(path / "config.json")
    problems = _variant_problems(values, architecture)
    generation: dict[str, Any] = {}
    generation_file = path / "generation_config.json"
    try:
        if generation_file.is_file():
            generation = read_object(generation_file)
    except CheckpointError as error:
        problems += error.problems
    try:
        return config_from_hf(values, generation), problems
    except ConfigError as error:
        return None, problems + error.problems


def config_from_hf(values: Mapping[str, Any], generation: Mapping[str, Any]) -> GPTConfig:
    """The configuration that config.json and generation_config.json describe.

    Of an unknown model_type it is read as GPT-2's. Raises ConfigError listing every value that is
    unknown or impossible.
    """
    family = _family(values)
    sizes = {name: _size(values, name) for name in family.sizes}
    inner = values.get("n_inner") if family.has_inner else None
    if inner is None:
        inner = 4 * sizes["n_embd"] if isinstance(sizes["n_embd"], int) else sizes["n_embd"]
    activation, problems = _activation(values, family)
    flags = {name: values.get(name, default) for name, default in family.flags.items()}
    problems += [
        f"{name} must be true or false, got {value!r}"
        for name, value in flags.items()
        if not isinstance(value, bool)
    ]
    try:
        config = GPTConfig(
            vocab_size=sizes["vocab_size"],
            num_positions=sizes["n_positions"],
            num_channels=sizes["n_embd"],
            num_layers=sizes["n_layer"],
            num_heads=sizes["n_head"],
            num_inner=inner,
            activation=activation,
            norm_epsilon=values.get("layer_norm_epsilon", 1e-5),
            is_head_tied=flags["tie_word_embeddings"],
            is_attention_scaled=flags.get("scale_attn_weights", True),
            is_attention_layer_scaled=flags.get("scale_attn_by_inverse_layer_idx", False),
            norm_placement=family.norm_placement,
        )
        ids = _eos_token_ids(values, generation, family.eos_id)
    except ConfigError as error:
        raise ConfigError(problems + error.problems) from error
    if problems:
        raise ConfigError(problems)
    # Models made from scratch often keep GPT-2's id, which they have no row for.
    return replace(config, eos_token_ids=tuple(id_ for id_ in ids if id_ < config.vocab_size))


def _family(values: Mapping[str, Any]) -> Family:
    """GPT-2's where the model_type is another, which :func:`read_config` tells."""
    model_type = values.get("model_type", "gpt2")
    known = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    return known or FAMILIES["gpt2"]


def _activation(values: Mapping[str, Any], family: Family) -> tuple[Activation, list[str]]:
    name = values.get(family.activation_field, family.default_activation)
    if isinstance(name, str) and name in family.activations:
        return family.activations[name], []
    return "gelu_tanh", [f"{family.activation_field} {name!r} is not supported"]


def _size(values: Mapping[str, Any], name: str) -> Any:
    alias = _ALIASES.get(name, name)
    return values.get(name, values.get(alias, _family(values).sizes[name]))


def _eos_token_ids(
    values: Mapping[str, Any], generation: Mapping[str, Any], default: int | None
) -> tuple[int, ...]:
    chosen = generation if "eos_token_id" in generation else values
    eos = chosen.get("eos_token_id", default)
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if not all(isinstance(id_, int) and not isinstance(id_, bool) and id_ >= 0 for id_ in ids):
        raise ConfigError([f"eos_token_id must be an id, a list of ids or null, got {eos!r}"])
    return tuple(dict.fromkeys(ids))


def _variant_problems(values: Mapping[str, Any], architecture: str | None) -> list[str]:
    """What a GPT-2 or GPT configuration can ask for and this decoder does not do."""
    problems = []
    model_type = values.get("model_type", "gpt2")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = " and ".join(FAMILIES)
        problems.append(f"model_type {model_type!r} is not supported, only {known} are")
    architectures = values.get("architectures") or []
    supported = _family(values).architectures
    problems += [
        f"architecture {name} is not supported, only {' and '.join(supported)} are"
        for name in (architectures if isinstance(architectures, list) else [architectures])
        if name not in (*supported, architecture)
    ]
    problems += [
        f"{name} is not supported"
        for name in ("add_cross_attention", "quantization_config", "pruned_heads")
        if values.get(name)
    ]
    context, positions = values.get("n_ctx"), _size(values, "n_positions")
    if context is not None and context != positions:
        problems.append(f"n_ctx is {context!r}, but n_positions is {positions!r}")
    return problems


def config_to_hf(config: GPTConfig) -> dict[str, Any]:
    """What ``config_from_hf`` reads back as ``config``, for ``GPT2LMHeadModel``, or for
    ``OpenAIGPTLMHeadModel`` if :func:`unwritable` finds nothing.

    Ids that the embedding has no row for are left out: nothing ever ends with one.
    """
    eos = [id_ for id_ in config.eos_token_ids if id_ < config.vocab_size]
    own = _gpt_values(config) if config.is_post_norm else _gpt2_values(config)
    return {
        **own,
        "vocab_size": config.vocab_size,
        "n_positions": config.num_positions,
        "n_embd": config.num_channels,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "layer_norm_epsilon": config.norm_epsilon,
        "tie_word_embeddings": config.is_head_tied,
        # GPT-2's own beginning is its end; what is not given would be 50256.
        "bos_token_id": eos[0] if eos else None,
        "eos_token_id": eos if len(eos) > 1 else eos[0] if eos else None,
    }


def _gpt2_values(config: GPTConfig) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_inner": config.num_inner,
        "activation_function": ACTIVATION_NAMES[config.activation],
        "scale_attn_weights": config.is_attention_scaled,
        "scale_attn_by_inverse_layer_idx": config.is_attention_layer_scaled,
    }


def _gpt_values(config: GPTConfig) -> dict[str, Any]:
    return {
        "architectures": ["OpenAIGPTLMHeadModel"],
        "model_type": "openai-gpt",
        "afn": GPT_ACTIVATION_NAMES[config.activation],
    }


def unwritable(config: GPTConfig) -> list[str]:
    """What of a post-norm ``config`` transformers' GPT does not know; of GPT-2 it knows all."""
    if not config.is_post_norm:
        return []
    problems = []
    if config.activation not in GPT_ACTIVATION_NAMES:
        known = ", ".join(GPT_ACTIVATION_NAMES)
        problems.append(f"activation {config.activation} (only {known})")
    if config.num_inner != 4 * config.num_channels:
        problems.append(f"num_inner {config.num_inner} (only 4 times {config.num_channels})")
    if not config.is_attention_scaled or config.is_attention_layer_scaled:
        problems.append("attention that is scaled in another way")
    return [f"transformers has no post-norm GPT with {problem}" for problem in problems]
