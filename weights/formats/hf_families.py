"""The model_types of Hugging Face's configurations that are read: what each calls its fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from model.config import Activation, NormPlacement

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
ACTIVATION_NAMES: Mapping[Activation, str] = {
    "gelu_tanh": "gelu_new",
    "gelu_erf": "gelu",
    "relu": "relu",
    "silu": "silu",
    "tanh": "tanh",
}
# What OpenAIGPTConfig calls gelu is the tanh form.
_GPT_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
GPT_ACTIVATION_NAMES: Mapping[Activation, str] = {
    "gelu_tanh": "gelu",
    "relu": "relu",
    "silu": "silu",
}


@dataclass(frozen=True, slots=True)
class Family:
    """A model_type: its configuration's defaults, and what its fields are called."""

    architectures: tuple[str, ...]
    sizes: Mapping[str, int]
    activation_field: str
    default_activation: str
    activations: Mapping[str, Activation]
    flags: Mapping[str, bool]
    eos_id: int | None
    norm_placement: NormPlacement
    has_inner: bool
    """Whether the number of inner channels can be another than four times the channels."""


FAMILIES: Mapping[str, Family] = {
    "gpt2": Family(
        architectures=("GPT2LMHeadModel", "GPT2Model"),
        sizes={
            "vocab_size": 50_257,
            "n_positions": 1_024,
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
        },
        activation_field="activation_function",
        default_activation="gelu_new",
        activations=_ACTIVATIONS,
        flags={
            "tie_word_embeddings": True,
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
        },
        eos_id=50_256,
        norm_placement="pre",
        has_inner=True,
    ),
    "openai-gpt": Family(
        architectures=("OpenAIGPTLMHeadModel", "OpenAIGPTModel"),
        sizes={
            "vocab_size": 40_478,
            "n_positions": 512,
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
        },
        activation_field="afn",
        default_activation="gelu",
        activations=_GPT_ACTIVATIONS,
        flags={"tie_word_embeddings": True},
        eos_id=None,
        norm_placement="post",
        has_inner=False,
    ),
}
