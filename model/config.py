"""GPTConfig: every size and variant that a GPT-2-family checkpoint can carry. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Activation = Literal["gelu_tanh", "gelu_erf", "relu", "silu", "tanh"]

ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)

NormPlacement = Literal["pre", "post"]

NORM_PLACEMENTS: tuple[NormPlacement, ...] = get_args(NormPlacement)


class ConfigError(ValueError):
    """A configuration that no decoder can have. ``problems`` lists every one of them."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class GPTConfig:
    """Sizes and variants of one decoder (GPT-2 paper, section 2.3; upstream ``GPT2Config``).

    ``is_attention_scaled`` divides scores by sqrt(head_len) (upstream ``scale_attn_weights``);
    ``is_attention_layer_scaled`` divides them by the layer's number, counted from one, as well
    (upstream ``scale_attn_by_inverse_layer_idx``). ``eos_token_ids`` end a sequence.
    ``norm_placement`` is ``pre`` for GPT-2, a norm before each sub-layer and one at the end, and
    ``post`` for GPT, a norm after each sub-layer and its residual, and none at the end (GPT paper,
    section 4.1).

    Raises ConfigError naming every impossible value.
    """

    vocab_size: int = 50_257
    num_positions: int = 1_024
    num_channels: int = 768
    num_layers: int = 12
    num_heads: int = 12
    num_inner: int = 3_072
    activation: Activation = "gelu_tanh"
    norm_epsilon: float = 1e-5
    is_head_tied: bool = True
    is_attention_scaled: bool = True
    is_attention_layer_scaled: bool = False
    eos_token_ids: tuple[int, ...] = ()
    norm_placement: NormPlacement = "pre"

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be a whole number of at least 1, got {getattr(self, name)!r}"
            for name in _COUNTS
            if not _is_count(getattr(self, name))
        ]
        problems += [
            f"{name} must be true or false, got {getattr(self, name)!r}"
            for name in _FLAGS
            if not isinstance(getattr(self, name), bool)
        ]
        if not all(type(id_) is int and 0 <= id_ < _MAX_ID for id_ in self.eos_token_ids):
            problems.append(f"eos_token_ids must be token ids, got {self.eos_token_ids!r:.80}")
        if not problems and self.num_channels % self.num_heads:
            problems.append(
                f"num_channels must be a multiple of num_heads, "
                f"got {self.num_channels} and {self.num_heads}"
            )
        if self.activation not in ACTIVATIONS:
            problems.append(
                f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}"
            )
        if self.norm_placement not in NORM_PLACEMENTS:
            problems.append(
                f"norm_placement must be one of {', '.join(NORM_PLACEMENTS)}, "
                f"got {self.norm_placement!r}"
            )
        if not isinstance(self.norm_epsilon, float) or not 0 < self.norm_epsilon < 1:
            problems.append(f"norm_epsilon must be between 0 and 1, got {self.norm_epsilon!r}")
        if problems:
            raise ConfigError(problems)

    @property
    def head_len(self) -> int:
        """D, channels per attention head."""
        return self.num_channels // self.num_heads

    @property
    def is_post_norm(self) -> bool:
        """Whether norms come after the sub-layers, as in the first GPT."""
        return self.norm_placement == "post"

    @property
    def num_parameters(self) -> int:
        """Parameters, counting a tied head once."""
        per_layer = (
            4 * self.num_channels * (self.num_channels + 1)
            + 2 * self.num_channels * self.num_inner
            + self.num_inner
            + 5 * self.num_channels
        )
        embeddings = (self.vocab_size + self.num_positions) * self.num_channels
        head = 0 if self.is_head_tied else self.vocab_size * self.num_channels
        last_norm = 0 if self.is_post_norm else 2 * self.num_channels
        return self.num_layers * per_layer + embeddings + head + last_norm

    def slot_bytes(
        self, element_bytes: int, num_positions: int | None = None, scale_bytes: int = 0
    ) -> int:
        """Bytes of one cache slot: keys and values of every layer for ``num_positions``.

        ``scale_bytes`` come beside each head's key and value.
        """
        positions = self.num_positions if num_positions is None else num_positions
        position_bytes = self.num_channels * element_bytes + self.num_heads * scale_bytes
        return 2 * self.num_layers * positions * position_bytes

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as written to a checkpoint's config.json."""
        return {**asdict(self), "eos_token_ids": list(self.eos_token_ids)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GPTConfig:
        """The inverse of :meth:`to_dict`. Raises ConfigError for unknown or missing names.

        What older checkpoints were written without is what they were: ``norm_placement`` is pre.
        """
        known = {field.name for field in fields(cls)}
        problems = [f"unknown field {name!r}" for name in sorted(values.keys() - known)]
        problems += [f"missing field {name!r}" for name in sorted(known - _ADDED - values.keys())]
        if problems:
            raise ConfigError(problems)
        return cls(**{**values, "eos_token_ids": tuple(values["eos_token_ids"])})


_ADDED = frozenset({"norm_placement"})
"""Fields that checkpoints exist without."""

_FLAGS = ("is_head_tied", "is_attention_scaled", "is_attention_layer_scaled")
_MAX_ID = 2**31
_COUNTS = ("vocab_size", "num_positions", "num_channels", "num_layers", "num_heads", "num_inner")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _preset(layers: int, channels: int, heads: int) -> GPTConfig:
    return GPTConfig(
        num_layers=layers,
        num_channels=channels,
        num_heads=heads,
        num_inner=4 * channels,
        eos_token_ids=(50_256,),
    )


PRESETS: Mapping[str, GPTConfig] = {
    "gpt": GPTConfig(vocab_size=40_478, num_positions=512, norm_placement="post"),
    "distilgpt2": _preset(6, 768, 12),
    "gpt2": _preset(12, 768, 12),
    "gpt2-medium": _preset(24, 1_024, 16),
    "gpt2-large": _preset(36, 1_280, 20),
    "gpt2-xl": _preset(48, 1_600, 25),
}
"""The released sizes: GPT's, and GPT-2's by the names that the hub gives them."""
