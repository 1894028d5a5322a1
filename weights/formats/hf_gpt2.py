"""GPT-2 as Hugging Face transformers writes it: config.json and weights, whole or sharded.

Conv1D matrices lie (in, out) there, and (out, in) here. Names may begin with ``transformer.``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from model.config import GPTConfig
from weights.formats.foreign import ForeignCheckpoint
from weights.formats.hf_config import read_config
from weights.formats.hf_files import open_weights
from weights.formats.naming import HEAD, MATRICES, named_problems, our_names, settle_head
from weights.stored import CheckpointError, TensorSource, expected_shapes

FORMAT = "hf_gpt2"

_PREFIX = "transformer."


def read_hf_gpt2(path: Path, *, with_pickles: bool = False) -> ForeignCheckpoint:
    """Read the directory ``path``. Tensors are memory-mapped, the transposed ones copied.

    ``with_pickles`` takes pytorch_model.bin where there are no safetensors.
    Raises CheckpointError listing every problem of the configuration and the tensors.
    """
    config, problems = read_config(path)
    try:
        files, stored, file_problems = open_weights(path, with_pickles)
        names, name_problems = our_names(stored, _without_prefix)
        problems += file_problems + name_problems
    except CheckpointError as error:
        raise CheckpointError(problems + error.problems) from error
    if config is None:
        raise CheckpointError(problems)
    config, names = settle_head(config, names, stored)
    # Tensors of a file that could not be opened are not missing.
    if not stored.problems:
        problems += _tensor_problems(config, names, stored)
    if problems:
        raise CheckpointError(problems)
    tensors = {ours: _transposed(ours, stored.load(names[ours])).contiguous() for ours in names}
    return ForeignCheckpoint(FORMAT, config, tensors, path, files)


def tensors_to_hf(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our tensors as ``GPT2LMHeadModel`` calls and turns them; views, nothing is copied."""
    return {
        name if name == HEAD else _PREFIX + name: _transposed(name, tensor)
        for name, tensor in tensors.items()
    }


def _without_prefix(name: str) -> str:
    return name.removeprefix(_PREFIX)


def _tensor_problems(
    config: GPTConfig, names: Mapping[str, str], stored: TensorSource
) -> list[str]:
    try:
        expected = expected_shapes(config, len(names))
    except CheckpointError as error:
        return error.problems
    turned = {
        name: shape[::-1] if MATRICES.fullmatch(name) else shape for name, shape in expected.items()
    }
    return named_problems(turned, names, stored)


def _transposed(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.t() if MATRICES.fullmatch(name) else tensor  # (in, out) <-> (out, in)
