"""GPT-2 as Hugging Face transformers writes it: config.json and safetensors, whole or sharded.

Conv1D matrices lie (in, out) there, and (out, in) here. Names may begin with ``transformer.``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from model.config import Activation, ConfigError, GPTConfig
from weights.formats.foreign import ForeignCheckpoint
from weights.stored import (
    CheckpointError,
    StoredTensors,
    expected_shapes,
    read_object,
    tensor_problems,
)

FORMAT = "hf_gpt2"

_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_HEAD = "lm_head.weight"
_TRANSPOSED = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
_CAUSAL_MASKS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
_TASK_HEADS = re.compile(r"(score|classifier|multiple_choice_head|qa_outputs)\..*")

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


def read_hf_gpt2(path: Path) -> ForeignCheckpoint:
    """Read the directory ``path``. Tensors are memory-mapped, the transposed ones copied.

    Raises CheckpointError listing every problem of the configuration and the tensors.
    """
    values = read_object(path / "config.json")
    config, problems = _read_config(values, path / "generation_config.json")
    files: tuple[str, ...] = ()
    try:
        files, weight_map = _weight_files(path)
        stored = StoredTensors(path / name for name in files)
        problems += stored.problems + _index_problems(weight_map, stored)
        names, name_problems = _our_names(stored)
        problems += name_problems
    except CheckpointError as error:
        raise CheckpointError(problems + error.problems) from error
    if config is None:
        raise CheckpointError(problems)
    config, names = _settle_head(config, names, stored)
    # Tensors of a file that could not be opened are not missing.
    if not stored.problems:
        problems += _shape_problems(config, names, stored)
    if problems:
        raise CheckpointError(problems)
    tensors = {ours: _load(ours, theirs, stored) for ours, theirs in names.items()}
    return ForeignCheckpoint(FORMAT, config, tensors, path, files)


def _read_config(
    values: Mapping[str, Any], generation_file: Path
) -> tuple[GPTConfig | None, list[str]]:
    problems = _variant_problems(values)
    generation: dict[str, Any] = {}
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


def _weight_files(path: Path) -> tuple[tuple[str, ...], Mapping[str, str] | None]:
    """The safetensors files to read, and the index's tensor -> file where there is one."""
    if (path / _WHOLE).exists():
        return (_WHOLE,), None
    if not (path / _INDEX).exists():
        raise CheckpointError([f"{_WHOLE} is missing", *unread_problems(path)])
    weight_map = read_object(path / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError([f"{_INDEX} has no weight_map"])
    shards = tuple(dict.fromkeys(weight_map.values()))
    odd = [shard for shard in shards if not _is_plain_name(shard)]
    if odd:
        raise CheckpointError([f"{_INDEX} names {shard!r}, which is no shard" for shard in odd])
    unnamed = sorted(p.name for p in path.glob("model-*-of-*.safetensors") if p.name not in shards)
    if unnamed:
        raise CheckpointError([f"{shard} is not named in {_INDEX}" for shard in unnamed])
    return shards, weight_map


def _is_plain_name(shard: object) -> bool:
    """Whether a shard lies in the directory itself: an index must not lead out of it."""
    return (
        isinstance(shard, str)
        and shard.endswith(".safetensors")
        and PurePosixPath(shard).name == shard
        and not {"\\", "\0"} & set(shard)
    )


def unread_problems(path: Path) -> list[str]:
    """The weights in ``path`` that are in no format we open, each by name."""
    problems = []
    for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt"):
        problems += [
            f"{file.name} is a pickle, which can run code and is never opened: "
            f"save the model as safetensors"
            for file in sorted(path.glob(pattern))
        ]
    for pattern in ("*.h5", "*.msgpack", "*.gguf"):
        problems += [
            f"{file.name} is not supported, only safetensors is"
            for file in sorted(path.glob(pattern))
        ]
    return problems


def _index_problems(weight_map: Mapping[str, str] | None, stored: StoredTensors) -> list[str]:
    if weight_map is None or stored.problems:
        return []
    problems = [
        f"tensor {name} is not in {shard}, where {_INDEX} puts it"
        for name, shard in weight_map.items()
        if stored.owners.get(name) != shard
    ]
    return problems + [
        f"tensor {name} of {owner} is not named in {_INDEX}"
        for name, owner in stored.owners.items()
        if name not in weight_map
    ]


def _our_names(stored: StoredTensors) -> tuple[dict[str, str], list[str]]:
    """Our name -> theirs, buffers left out; and what stands in the way."""
    names: dict[str, str] = {}
    problems = []
    for theirs in stored.owners:
        ours = theirs.removeprefix("transformer.")
        if _CAUSAL_MASKS.fullmatch(ours):
            continue
        if _TASK_HEADS.fullmatch(ours):
            problems.append(f"tensor {theirs} is a task head, which is not supported")
        elif ours in names:
            problems.append(f"tensor {ours} is there twice, as {names[ours]} and {theirs}")
        else:
            names[ours] = theirs
    return names, problems


def _settle_head(
    config: GPTConfig, names: dict[str, str], stored: StoredTensors
) -> tuple[GPTConfig, dict[str, str]]:
    """Drop a head that repeats the embedding of a tied model; untie where it differs.

    transformers does the same: with both tensors there and different, it does not tie them.
    """
    if not config.is_head_tied or _HEAD not in names or "wte.weight" not in names:
        return config, names
    head, embedding = (stored.load(names[name]) for name in (_HEAD, "wte.weight"))
    if head.dtype == embedding.dtype and torch.equal(head, embedding):
        return config, {ours: theirs for ours, theirs in names.items() if ours != _HEAD}
    return replace(config, is_head_tied=False), names


def _shape_problems(
    config: GPTConfig, names: Mapping[str, str], stored: StoredTensors
) -> list[str]:
    try:
        expected = expected_shapes(config, len(names))
    except CheckpointError as error:
        return error.problems
    return tensor_problems(
        {name: shape[::-1] if _is_transposed(name) else shape for name, shape in expected.items()},
        {ours: stored.shape(theirs) for ours, theirs in names.items()},
        {ours: stored.dtype(theirs) for ours, theirs in names.items()},
    )


def _is_transposed(name: str) -> bool:
    return _TRANSPOSED.fullmatch(name) is not None


def _load(ours: str, theirs: str, stored: StoredTensors) -> torch.Tensor:
    tensor = stored.load(theirs)
    return tensor.t().contiguous() if _is_transposed(ours) else tensor  # (in, out) -> (out, in)
