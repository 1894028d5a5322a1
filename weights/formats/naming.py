"""From a state dict's names to our own, and whether all of them are there: for every layout of
torch whose modules are called as OpenAI called the variables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from model.config import GPTConfig
from weights.stored import SAFETENSORS_DTYPES, TensorSource, tensor_problems

HEAD = "lm_head.weight"
EMBEDDING = "wte.weight"
POSITIONS = "wpe.weight"
MATRICES = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
"""What some layouts keep as (in, out)."""

# Causal masks, and GPT's numbers from 0 to 511.
_BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)|position_ids")
_TASK_HEADS = re.compile(r"(score|classifier|multiple_choice_head|qa_outputs)\..*")


def our_names(
    stored: TensorSource, strip: Callable[[str], str], task_head: str | None = None
) -> tuple[dict[str, str], list[str]]:
    """Our name -> theirs, buffers left out; and what stands in the way.

    ``strip`` takes away what their names have before ours. ``task_head`` is read by somebody else.
    """
    names: dict[str, str] = {}
    problems = []
    for theirs in stored.owners:
        ours = strip(theirs)
        if _BUFFERS.fullmatch(ours) or ours == task_head:
            continue
        if _TASK_HEADS.fullmatch(ours):
            problems.append(f"tensor {theirs} is a task head, which is not supported")
        elif ours in names:
            problems.append(f"tensor {ours} is there twice, as {names[ours]} and {theirs}")
        else:
            names[ours] = theirs
    return names, problems


def settle_head(
    config: GPTConfig, names: dict[str, str], stored: TensorSource
) -> tuple[GPTConfig, dict[str, str]]:
    """Drop a head that repeats the embedding of a tied model; untie where it differs.

    transformers does the same: with both tensors there and different, it does not tie them.
    """
    if not config.is_head_tied or HEAD not in names or EMBEDDING not in names:
        return config, names
    # Of other dtypes, which are a problem anyway, torch does not compare all.
    if stored.dtype(names[HEAD]) in SAFETENSORS_DTYPES.values():
        head, embedding = (stored.load(names[name]) for name in (HEAD, EMBEDDING))
        if head.dtype == embedding.dtype and torch.equal(head, embedding):
            return config, {ours: theirs for ours, theirs in names.items() if ours != HEAD}
    return replace(config, is_head_tied=False), names


def named_problems(
    expected: Mapping[str, tuple[int, ...]], names: Mapping[str, str], stored: TensorSource
) -> list[str]:
    """Every tensor, by our name, that is not as ``expected``."""
    return tensor_problems(
        expected,
        {ours: stored.shape(theirs) for ours, theirs in names.items()},
        {ours: stored.dtype(theirs) for ours, theirs in names.items()},
    )
