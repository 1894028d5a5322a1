"""A checkpoint as a GGUF file, in the names and layout that llama.cpp has for GPT-2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize

from bench.arrays import Array, Arrays

_LAYER_NAMES = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_NAMES = {
    "wte.weight": "token_embd.weight",
    "wpe.weight": "position_embd.weight",
    "ln_f.weight": "output_norm.weight",
    "ln_f.bias": "output_norm.bias",
    "lm_head.weight": "output.weight",
}
PRECISIONS = ("F32", "BF16", "Q8_0", "Q4_0")


def gguf_name(name: str) -> str:
    """``h.3.attn.c_attn.bias`` -> ``blk.3.attn_qkv.bias``."""
    if name in _NAMES:
        return _NAMES[name]
    _, index, rest = name.split(".", 2)
    part, _, kind = rest.rpartition(".")
    return f"blk.{index}.{_LAYER_NAMES[part]}.{kind}"


def is_matrix(name: str) -> bool:
    """Whether a weight is multiplied, and so is stored at the chosen precision."""
    return name.endswith("weight") and (".c_" in name or name in {"wte.weight", "lm_head.weight"})


def write_gguf(arrays: Arrays, path: Path, precision: str) -> None:
    """Write ``path`` with every matrix at ``precision``, the embedding and the tied head too.

    There is no vocabulary in it: ids go in and come out.
    """
    config = arrays.config
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(config.num_positions)
    writer.add_embedding_length(config.num_channels)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.num_inner)
    writer.add_head_count(config.num_heads)
    writer.add_layer_norm_eps(config.norm_epsilon)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config.vocab_size)
    for name, values, kind in _stored(arrays, gguf.GGMLQuantizationType[precision]):
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _stored(
    arrays: Arrays, wanted: gguf.GGMLQuantizationType
) -> Iterator[tuple[str, np.ndarray, gguf.GGMLQuantizationType]]:
    for name, values in arrays.tensors.items():
        kind = wanted if is_matrix(name) else gguf.GGMLQuantizationType.F32
        yield gguf_name(name), _encoded(values, kind), kind


def _encoded(values: Array, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    contiguous = np.ascontiguousarray(values)
    return contiguous if kind == gguf.GGMLQuantizationType.F32 else quantize(contiguous, kind)
