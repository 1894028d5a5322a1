"""config.json of a Hugging Face GPT-2 model, and generation_config.json: read, and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.config import Activation, ConfigError, GPTConfig
from weights.stored import CheckpointError, read_object

_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
_ACTIVATION_NAMES: Mapping[Activation, str] = {
    "gelu_tanh": "gelu_new",
    "gelu_erf": "gelu",
    "relu": "relu",
    "silu": "silu",
    "tanh": "tanh",
}
_ARCHITECTURES = ("GPT2LMHeadModel", "GPT2Model")
# Defaults of GPT2Config, and the other names that it answers to.
_DEFAULTS: Mapping[str, int] = {
    "vocab_size": 50_257,
    "n_positions": 1_024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
}
_ALIASES: Mapping[str, str] = {
    "n_positions": "max_position_embeddings",
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
}
_DEFAULT_EOS_ID = 50_256


def read_config(path: Path) -> tuple[GPTConfig | None, list[str]]:
    """The configuration of the directory ``path``, if it can be read, and every problem of it.

    Raises CheckpointError, if there is no config.json or no object in it.
    """
    values = read_object(path / "config.json")
    problems = _variant_problems(values)
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

    Raises ConfigError listing every value that is unknown or impossible.
    """
    sizes = {name: _size(values, name) for name in _DEFAULTS}
    inner = values.get("n_inner")
    if inner is None:
        inner = 4 * sizes["n_embd"] if isinstance(sizes["n_embd"], int) else sizes["n_embd"]
    activation = values.get("activation_function", "gelu_new")
    problems: list[str] = []
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        problems.append(f"activation_function {activation!r} is not supported")
        activation = "gelu_new"
    flags = {name: values.get(name, default) for name, default in _FLAGS.items()}
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
            activation=_ACTIVATIONS[activation],
            norm_epsilon=values.get("layer_norm_epsilon", 1e-5),
            is_head_tied=flags["tie_word_embeddings"],
            is_attention_scaled=flags["scale_attn_weights"],
            is_attention_layer_scaled=flags["scale_attn_by_inverse_layer_idx"],
        )
        ids = _eos_token_ids(values, generation)
    except ConfigError as error:
        raise ConfigError(problems + error.problems) from error
    if problems:
        raise ConfigError(problems)
    # Models made from scratch often keep GPT-2's id, which they have no row for.
    return replace(config, eos_token_ids=tuple(id_ for id_ in ids if id_ < config.vocab_size))


_FLAGS: Mapping[str, bool] = {
    "tie_word_embeddings": True,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
}


def _size(values: Mapping[str, Any], name: str) -> Any:
    alias = _ALIASES.get(name, name)
    return values.get(name, values.get(alias, _DEFAULTS[name]))


def _eos_token_ids(values: Mapping[str, Any], generation: Mapping[str, Any]) -> tuple[int, ...]:
    chosen = generation if "eos_token_id" in generation else values
    eos = chosen.get("eos_token_id", _DEFAULT_EOS_ID)
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if not all(isinstance(id_, int) and not isinstance(id_, bool) and id_ >= 0 for id_ in ids):
        raise ConfigError([f"eos_token_id must be an id, a list of ids or null, got {eos!r}"])
    return tuple(dict.fromkeys(ids))


def _variant_problems(values: Mapping[str, Any]) -> list[str]:
    """What a GPT-2 configuration can ask for and this decoder does not do."""
    problems = []
    model_type = values.get("model_type", "gpt2")
    if model_type != "gpt2":
        problems.append(f"model_type {model_type!r} is not supported, only gpt2 is")
    architectures = values.get("architectures") or []
    problems += [
        f"architecture {name} is not supported, only {' and '.join(_ARCHITECTURES)} are"
        for name in (architectures if isinstance(architectures, list) else [architectures])
        if name not in _ARCHITECTURES
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
    """What ``config_from_hf`` reads back as ``config``, for ``GPT2LMHeadModel``.

    Ids that the embedding has no row for are left out: nothing ever ends with one.
    """
    eos = [id_ for id_ in config.eos_token_ids if id_ < config.vocab_size]
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.num_positions,
        "n_embd": config.num_channels,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.num_inner,
        "activation_function": _ACTIVATION_NAMES[config.activation],
        "layer_norm_epsilon": config.norm_epsilon,
        "tie_word_embeddings": config.is_head_tied,
        "scale_attn_weights": config.is_attention_scaled,
        "scale_attn_by_inverse_layer_idx": config.is_attention_layer_scaled,
        # GPT-2's own beginning is its end; what is not given would be 50256.
        "bos_token_id": eos[0] if eos else None,
        "eos_token_id": eos if len(eos) > 1 else eos[0] if eos else None,
    }
