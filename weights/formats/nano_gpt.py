"""nanoGPT's ckpt.pt and minGPT's model.pt: files of torch.save, by karpathy/nanoGPT and minGPT.

Matrices are those of ``nn.Linear``, (out, in) as here. nanoGPT's file has its sizes with it and
minGPT's is a bare state dict, whose number of heads is in the config.json of the run beside it.
Neither has a vocabulary or an end of text: both come from the vocabulary that is given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model.config import Activation, ConfigError, GPTConfig
from weights.formats import mingpt_config
from weights.formats.foreign import ForeignCheckpoint, Hints
from weights.formats.hf_files import has_hf_weights
from weights.formats.naming import (
    EMBEDDING,
    HEAD,
    POSITIONS,
    named_problems,
    our_names,
    settle_head,
)
from weights.formats.torch_pickle import PickledTensors, read_torch_file
from weights.stored import CheckpointError, expected_shapes

NANO_GPT = "nanogpt"
MIN_GPT = "mingpt"

# What torch.compile and DistributedDataParallel put before every name, around each other.
_PREFIX = re.compile(r"(?:_orig_mod\.|module\.)*(?:transformer\.)?")
_LAYER = re.compile(r"h\.(\d{1,9})\.")
_FIRST = "h.0.attn.c_attn.weight"
_SIZES: Mapping[str, str] = {
    "vocab_size": "vocab_size",
    "block_size": "num_positions",
    "n_embd": "num_channels",
    "n_layer": "num_layers",
    "n_head": "num_heads",
}
# Of another name in model_args it is not known what it does to the computation.
_ARGUMENTS = frozenset((*_SIZES, "bias", "dropout"))

_PADDED_TO = 64
_MAX_PADDING = 128


def find_nano_gpt(path: Path) -> Path | None:
    """The file that ``path`` is, or the one .pt that it holds beside no Hugging Face weights.

    Raises CheckpointError, if there are several.
    """
    if not path.is_dir():
        return path
    files = sorted(path.glob("*.pt"))
    if not files or has_hf_weights(path):
        return None
    if len(files) > 1:
        listed = ", ".join(file.name for file in files[:5])
        raise CheckpointError([f"holds {len(files)} .pt files, name one: {listed}"])
    return files[0]


def read_nano_gpt(file: Path, hints: Hints) -> ForeignCheckpoint:
    """Read a ckpt.pt of nanoGPT or a model.pt of minGPT. Tensors are memory-mapped.

    Rows of a padded embedding that the vocabulary has no token for are cut off, if they are fewer
    than 128: no text ever trained them, and the other logits stay what they were. Without a
    vocabulary all rows are kept. Raises CheckpointError listing every problem.
    """
    values = read_torch_file(file)
    if not isinstance(values, Mapping):
        raise CheckpointError([f"{file.name} holds {type(values).__name__}, not a model"])
    if isinstance(values.get("model"), Mapping):
        found = _read_nano(file, values)
    else:
        found = _read_min(file, values, hints)
    eos = hints.eos_token_id
    config = replace(found.config, eos_token_ids=() if eos is None else (eos,))
    return _without_padding(replace(found, config=config), hints.vocab_size)


def _read_nano(file: Path, values: Mapping[str, Any]) -> ForeignCheckpoint:
    config, has_bias = _nano_config(values.get("model_args"))
    stored, names = _open(file, values["model"])
    config, names = settle_head(config, names, stored)
    expected = expected_shapes(config, len(names))
    biases = {} if has_bias else {n: s for n, s in expected.items() if n.endswith(".bias")}
    problems = named_problems(
        {name: shape for name, shape in expected.items() if name not in biases}, names, stored
    )
    if problems:
        raise CheckpointError(problems)
    tensors = {ours: stored.load(theirs) for ours, theirs in names.items()}
    dtype = tensors[EMBEDDING].dtype
    tensors |= {name: torch.zeros(shape, dtype=dtype) for name, shape in biases.items()}
    changes = ("bias is False: every bias was filled with zeros",) if biases else ()
    return ForeignCheckpoint(NANO_GPT, config, tensors, file.parent, (file.name,), changes=changes)


def _nano_config(arguments: object) -> tuple[GPTConfig, bool]:
    """The configuration, and whether there are biases."""
    if not isinstance(arguments, Mapping):
        raise CheckpointError(["has a model, but no model_args as nanoGPT writes them"])
    problems = [f"model_args has no {name}" for name in _SIZES if name not in arguments]
    problems += [
        f"model_args has {name!r:.80}, which is not nanoGPT's: its effect is not known"
        for name in arguments
        if name not in _ARGUMENTS
    ]
    has_bias = arguments.get("bias", True)
    if not isinstance(has_bias, bool):
        problems.append(f"model_args: bias must be true or false, got {has_bias!r:.80}")
    if problems:
        raise CheckpointError(problems)
    sizes = {ours: arguments[theirs] for theirs, ours in _SIZES.items()}
    # nanoGPT has computed the exact form since June 2023, GPT-2's before; files do not say which.
    # Those without ``bias`` are from before February of that year.
    activation: Activation = "gelu_erf" if "bias" in arguments else "gelu_tanh"
    return _config(sizes, activation, is_head_tied=True), has_bias


def _read_min(file: Path, values: Mapping[str, Any], hints: Hints) -> ForeignCheckpoint:
    stored, names = _open(file, values)
    sizes = _sizes_of(file, stored, names)
    # No shape depends on the number of heads.
    config = _config({**sizes, "num_heads": 1}, "gelu_tanh", is_head_tied=False)
    problems = named_problems(expected_shapes(config, len(names)), names, stored)
    try:
        settings = mingpt_config.read_settings(file.parent)
        heads = mingpt_config.num_heads(settings, sizes, hints.num_heads)
    except CheckpointError as error:
        raise CheckpointError(problems + error.problems) from error
    if problems:
        raise CheckpointError(problems)
    tensors = {ours: stored.load(theirs) for ours, theirs in names.items()}
    if tensors[HEAD].data_ptr() == tensors[EMBEDDING].data_ptr():
        raise CheckpointError(
            [
                f"{file.name} is a bare state dict whose {HEAD} is {EMBEDDING}, which minGPT "
                f"never ties; of a model of nanoGPT, convert the ckpt.pt that it came from"
            ]
        )
    config = _config({**sizes, "num_heads": heads}, "gelu_tanh", is_head_tied=False)
    others = () if settings is None else (mingpt_config.FILE,)
    return ForeignCheckpoint(
        MIN_GPT, config, tensors, file.parent, (file.name,), config_files=others
    )


def _sizes_of(file: Path, stored: PickledTensors, names: Mapping[str, str]) -> dict[str, int]:
    """What the shapes say: all but the number of heads."""
    shapes = [stored.shape(names[name]) for name in (EMBEDDING, POSITIONS) if name in names]
    if [len(shape) for shape in shapes] != [2, 2]:
        raise CheckpointError(
            [
                f"{file.name} is neither nanoGPT's (model, model_args) nor minGPT's "
                f"(transformer.{EMBEDDING}, transformer.{POSITIONS}, ...)"
            ]
        )
    (vocab_size, channels), (num_positions, _) = shapes
    if _FIRST in names and stored.shape(names[_FIRST]) == (channels, 3 * channels):
        raise CheckpointError(
            [f"{file.name} has Hugging Face's matrices, (in, out): convert its whole directory"]
        )
    layers = [int(match[1]) for name in names if (match := _LAYER.match(name))]
    return {
        "vocab_size": vocab_size,
        "num_positions": num_positions,
        "num_channels": channels,
        "num_layers": max(layers, default=-1) + 1,
    }


def _open(file: Path, state: Mapping[str, Any]) -> tuple[PickledTensors, dict[str, str]]:
    stored = PickledTensors()
    stored.add(file.name, state)
    names, problems = our_names(stored, lambda name: _PREFIX.sub("", name, count=1))
    if stored.problems or problems:
        raise CheckpointError(stored.problems + problems)
    return stored, names


def _config(sizes: Mapping[str, Any], activation: Activation, *, is_head_tied: bool) -> GPTConfig:
    channels = sizes["num_channels"]
    inner = 4 * channels if isinstance(channels, int) else channels
    try:
        return GPTConfig(**sizes, num_inner=inner, activation=activation, is_head_tied=is_head_tied)
    except ConfigError as error:
        raise CheckpointError(error.problems) from error


def _without_padding(found: ForeignCheckpoint, vocab_size: int | None) -> ForeignCheckpoint:
    rows = found.config.vocab_size
    padding = 0 if vocab_size is None else rows - vocab_size
    if vocab_size is None or rows % _PADDED_TO or not 0 < padding < _MAX_PADDING:
        return found
    tensors = {
        name: tensor[:vocab_size] if name in {EMBEDDING, HEAD} else tensor
        for name, tensor in found.tensors.items()
    }
    change = (
        f"rows {vocab_size} to {rows - 1} of the embedding and the head were cut off: "
        f"padding, which the vocabulary has no token for"
    )
    return replace(
        found,
        config=replace(found.config, vocab_size=vocab_size),
        tensors=tensors,
        changes=(*found.changes, change),
    )
