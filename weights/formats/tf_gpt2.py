"""GPT-2 as OpenAI released it: a TensorFlow checkpoint with hparams.json, and its fine-tunings.

Matrices lie (1, in, out) there, as the kernels of a convolution of width one, and (out, in) here.
Variables are ``model/h0/attn/c_attn/w`` and the like (openai/gpt-2, src/model.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model.config import ConfigError, GPTConfig
from model.vocabulary import is_id
from weights.formats.foreign import NO_HINTS, ForeignCheckpoint, Hints
from weights.formats.tensor_bundle import TensorBundle, open_bundle
from weights.stored import CheckpointError, expected_shapes, read_object, tensor_problems
from weights.vocabulary import END_OF_TEXT

FORMAT = "tf_gpt2"

_HPARAMS = "hparams.json"
_STATE = "checkpoint"

_SIZES: Mapping[str, str] = {
    "n_vocab": "vocab_size",
    "n_ctx": "num_positions",
    "n_embd": "num_channels",
    "n_layer": "num_layers",
    "n_head": "num_heads",
}
_DROPOUTS = re.compile(r"(\w+_)?dropout")

# CheckpointState, a protocol buffer as text: openai/gpt-2 ships "model.ckpt".
_MAX_STATE_BYTES = 1 << 20
_PREFIX = re.compile(
    rb"""^[ \t]*model_checkpoint_path[ \t]*:[ \t]*(["'])((?:\\.|(?!\1)[^\\\n])*)\1""", re.MULTILINE
)
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|.)")

# What TensorFlow's optimisers keep: of each variable, under its name, and of themselves.
_SLOT = re.compile(r"(Adam|AdamW|AdaMax|Adagrad|Adadelta|Ftrl|Momentum|RMSProp)(_\d)?|adam_[mv]")
_TRAINING_STATE = ("beta1_power", "beta2_power", "global_step", "learning_rate")


def is_tf_gpt2(path: Path) -> bool:
    """Whether ``path`` looks like such a checkpoint, whole or with parts missing."""
    if not path.is_dir() or (path / "config.json").exists():
        return False
    is_named = any((path / name).is_file() for name in (_HPARAMS, _STATE))
    return is_named or any(path.glob("*.index"))


def read_tf_gpt2(path: Path, hints: Hints = NO_HINTS) -> ForeignCheckpoint:
    """Read the directory ``path``. Tensors are memory-mapped, the transposed ones copied.

    The end of text is that of the vocabulary in ``hints``, or else of encoder.json.
    Raises CheckpointError listing every problem of the sizes and the variables.
    """
    problems: list[str] = []
    config: GPTConfig | None = None
    bundle: TensorBundle | None = None
    try:
        config = _read_config(path, hints)
    except CheckpointError as error:
        problems += error.problems
    try:
        bundle = open_bundle(_find_index(path))
    except CheckpointError as error:
        problems += error.problems
    if problems or config is None or bundle is None:
        raise CheckpointError(problems)
    names = _variables(config, bundle)
    loaded = bundle.load(names.values())
    tensors = {ours: _our_layout(ours, loaded[theirs]) for ours, theirs in names.items()}
    files = (bundle.index.name, *(shard.name for shard in bundle.shards))
    return ForeignCheckpoint(FORMAT, config, tensors, path, files)


def _read_config(path: Path, hints: Hints) -> GPTConfig:
    if not (path / _HPARAMS).exists():
        raise CheckpointError(
            [f"{_HPARAMS} is missing: copy that of the model that this one was fine-tuned from"]
        )
    values = read_object(path / _HPARAMS)
    problems = [f"{_HPARAMS} has no {name}" for name in _SIZES if name not in values]
    problems += [
        f"{_HPARAMS}: {name!r:.80} is not known"
        for name in values
        if name not in _SIZES and not _DROPOUTS.fullmatch(name)
    ]
    if problems:
        raise CheckpointError(problems)
    sizes = {ours: values[theirs] for theirs, ours in _SIZES.items()}
    channels = values["n_embd"]
    try:
        return GPTConfig(
            **sizes,
            num_inner=4 * channels if isinstance(channels, int) else channels,
            eos_token_ids=_eos_token_ids(path, hints, values["n_vocab"]),
        )
    except ConfigError as error:
        raise CheckpointError([f"{_HPARAMS}: {problem}" for problem in error.problems]) from error


def _eos_token_ids(path: Path, hints: Hints, num_ids: Any) -> tuple[int, ...]:
    """The end of text, if there is a vocabulary that has it.

    What is wrong with a vocabulary is not told here: conversion reads it whole, and tells.
    """
    id_: Any = hints.eos_token_id
    if hints.vocab_size is None:  # no vocabulary was read
        try:
            id_ = read_object(path / "encoder.json").get(END_OF_TEXT)
        except CheckpointError:
            return ()
    if is_id(id_) and isinstance(num_ids, int) and id_ < num_ids:
        return (id_,)
    return ()


def _find_index(path: Path) -> Path:
    """The index that ``checkpoint`` names, or the only one. Raises CheckpointError."""
    found = sorted(file.name for file in path.glob("*.index"))
    if (path / _STATE).is_file():
        name = f"{_read_prefix(path / _STATE)}.index"
        if name not in found:
            raise CheckpointError([f"{_STATE} names {name!r:.80}, which is missing"])
        return path / name
    if not found:
        raise CheckpointError(["the index of the variables is missing, as model.ckpt.index"])
    if len(found) > 1:
        listed = ", ".join(found[:5])
        raise CheckpointError([f"{_STATE} is missing, which says what to read of {listed}"])
    return path / found[0]


def _read_prefix(state: Path) -> str:
    """The name of the latest model, without the folder that it was trained in."""
    try:
        with state.open("rb") as file:
            text = file.read(_MAX_STATE_BYTES)
    except OSError as error:
        raise CheckpointError([f"{_STATE} cannot be read: {error.strerror}"]) from error
    match = _PREFIX.search(text)
    if match is None:
        raise CheckpointError([f"{_STATE} has no model_checkpoint_path"])
    written = _ESCAPE.sub(_unescaped, match[2]).decode(errors="replace")
    return re.split(r"[/\\]", written)[-1]


def _unescaped(match: re.Match[bytes]) -> bytes:
    escaped = match[1]
    return bytes([int(escaped, 8) & 0xFF]) if escaped.isdigit() else escaped


def _variables(config: GPTConfig, bundle: TensorBundle) -> dict[str, str]:
    """Our name -> their name. Raises CheckpointError naming every variable that does not fit."""
    stored = {
        name: entry
        for name, entry in bundle.entries.items()
        if not _is_training_state(name, bundle)
    }
    expected = expected_shapes(config, len(stored))
    names = {ours: _their_name(ours) for ours in expected}
    problems = tensor_problems(
        {names[ours]: _their_shape(ours, shape) for ours, shape in expected.items()},
        {name: entry.shape for name, entry in stored.items()},
        {name: entry.dtype for name, entry in stored.items()},
    )
    if problems:
        raise CheckpointError(problems)
    return names


def _is_training_state(name: str, bundle: TensorBundle) -> bool:
    """Whether only an optimiser knows the variable; it may have put a scope before the name."""
    variable, _, kind = name.rpartition("/")
    if _SLOT.fullmatch(kind):
        return variable[max(variable.find("model/"), 0) :] in bundle.entries
    return kind in _TRAINING_STATE


def _their_name(ours: str) -> str:
    """``h.0.attn.c_attn.weight`` -> ``model/h0/attn/c_attn/w``."""
    *modules, kind = re.sub(r"^h\.", "h", ours).split(".")
    letter = "g" if modules[-1].startswith("ln_") and kind == "weight" else kind[0]
    is_embedding = modules[-1] in {"wte", "wpe"}
    return "/".join(["model", *modules] + ([] if is_embedding else [letter]))


def _their_shape(ours: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *shape[::-1]) if _is_kernel(ours) else shape  # (out, in) -> (1, in, out)


def _our_layout(ours: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor[0].t().contiguous() if _is_kernel(ours) else tensor  # (1, in, out) -> (out, in)


def _is_kernel(ours: str) -> bool:
    return ".c_" in ours and ours.endswith(".weight")
