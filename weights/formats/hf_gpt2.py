"""GPT-2 and GPT as Hugging Face transformers writes them: config.json and weights.

Conv1D matrices lie (in, out) there, and (out, in) here. Names may begin with ``transformer.``.
GPT's embeddings are called otherwise than GPT-2's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from model.config import GPTConfig
from weights.formats.foreign import ForeignCheckpoint
from weights.formats.hf_config import read_config
from weights.formats.hf_files import open_weights
from weights.formats.naming import (
    EMBEDDING,
    HEAD,
    MATRICES,
    POSITIONS,
    named_problems,
    our_names,
    settle_head,
)
from weights.stored import CheckpointError, TensorSource, expected_shapes

FORMAT = "hf_gpt2"
GPT_FORMAT = "hf_openai_gpt"

_PREFIX = "transformer."
_GPT_NAMES: Mapping[str, str] = {
    EMBEDDING: "tokens_embed.weight",
    POSITIONS: "positions_embed.weight",
}
_FROM_GPT: Mapping[str, str] = {theirs: ours for ours, theirs in _GPT_NAMES.items()}


@dataclass(frozen=True, slots=True)
class TaskHead:
    """The tensor of a task head, which is read by itself, and the architecture that has one."""

    architecture: str
    tensor: str


def read_hf_gpt2(
    path: Path, *, with_pickles: bool = False, task_head: TaskHead | None = None
) -> ForeignCheckpoint:
    """Read the directory ``path``. Tensors are memory-mapped, the transposed ones copied.

    ``with_pickles`` takes pytorch_model.bin where there are no safetensors. ``task_head`` is left
    out, where every other one is a problem.
    Raises CheckpointError listing every problem of the configuration and the tensors.
    """
    architecture, head = (task_head.architecture, task_head.tensor) if task_head else (None, None)
    config, problems = read_config(path, architecture)
    is_gpt = config is not None and config.is_post_norm
    try:
        files, stored, file_problems = open_weights(path, with_pickles)
        names, name_problems = our_names(stored, _gpt_name if is_gpt else _gpt2_name, head)
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
    return ForeignCheckpoint(GPT_FORMAT if is_gpt else FORMAT, config, tensors, path, files)


def tensors_to_hf(
    config: GPTConfig, tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Our tensors as ``GPT2LMHeadModel``, or ``OpenAIGPTLMHeadModel``, calls and turns them.

    They are views: nothing is copied.
    """
    renamed = _GPT_NAMES if config.is_post_norm else {}
    return {
        name if name == HEAD else _PREFIX + renamed.get(name, name): _transposed(name, tensor)
        for name, tensor in tensors.items()
    }


def _gpt2_name(name: str) -> str:
    return name.removeprefix(_PREFIX)


def _gpt_name(name: str) -> str:
    bare = name.removeprefix(_PREFIX)
    return _FROM_GPT.get(bare, bare)


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
