"""The config.json of a minGPT run, of which the number of heads is needed: no shape tells it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weights.stored import CheckpointError, read_object

FILE = "config.json"

# model_type -> layers, heads, channels (karpathy/minGPT, mingpt/model.py).
_MODEL_TYPES: Mapping[str, tuple[int, int, int]] = {
    "openai-gpt": (12, 12, 768),
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1_024),
    "gpt2-large": (36, 20, 1_280),
    "gpt2-xl": (48, 25, 1_600),
    "gopher-44m": (8, 16, 512),
    "gpt-mini": (6, 6, 192),
    "gpt-micro": (4, 4, 128),
    "gpt-nano": (3, 3, 48),
}


def read_settings(directory: Path) -> Mapping[str, Any] | None:
    """The part of config.json about the model; None if there is no such file of minGPT.

    Raises CheckpointError, if it cannot be read.
    """
    if not (directory / FILE).is_file():
        return None
    settings = read_object(directory / FILE).get("model")
    return settings if isinstance(settings, dict) else None


def num_heads(
    settings: Mapping[str, Any] | None, sizes: Mapping[str, int], hint: int | None
) -> Any:
    """The heads of a model with these layers and channels: what the run says, or else ``hint``.

    The value is as unverified as the file. Raises CheckpointError, if neither knows it, or if
    the run had another model.
    """
    layers, heads, channels = _told(settings) if settings is not None else (None, None, None)
    problems = [
        f"{FILE} says {theirs} {told!r:.80}, but the tensors have {sizes[ours]}"
        for theirs, ours, told in (
            ("n_layer", "num_layers", layers),
            ("n_embd", "num_channels", channels),
        )
        if told is not None and told != sizes[ours]
    ]
    heads = hint if heads is None else heads
    if heads is None:
        problems.append(
            f"the number of heads is not known: a bare state dict of minGPT needs the {FILE} of "
            f"its run beside it, or --num-heads"
        )
    if problems:
        raise CheckpointError(problems)
    return heads


def _told(settings: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Layers, heads and channels: by name, or by the three numbers."""
    kind = settings.get("model_type")
    if kind is None:
        return settings.get("n_layer"), settings.get("n_head"), settings.get("n_embd")
    if not isinstance(kind, str) or kind not in _MODEL_TYPES:
        raise CheckpointError([f"{FILE}: model_type {kind!r:.80} is not minGPT's"])
    return _MODEL_TYPES[kind]
