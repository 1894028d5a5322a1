"""CTranslate2: a static batch of ``Generator.generate_batch``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
from ctranslate2.specs import common_spec, transformer_spec

from bench.adapters import Setting, Unavailable
from bench.arrays import Arrays, read_arrays
from bench.timing import Stopwatch, Timing


class Peer:
    """One generator whose tokens are the ids as strings."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def prepare(self, num_streams: int, total_len: int) -> None:
        """Nothing to do: its cache grows by itself."""

    def generate(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> Timing:
        """Continue prompts, which are computed at once. The clock is the callback.

        It is called for every token of a step, after the step; less than 0.01 ms each.
        """
        tokens = [[str(token_id) for token_id in prompt] for prompt in prompts]
        watch = Stopwatch()
        results = self._generator.generate_batch(
            tokens,
            max_length=num_tokens,
            beam_size=1,
            sampling_topk=1,
            end_token=[],
            include_prompt_in_result=False,
            callback=lambda result: watch.lap(result.step),
        )
        return watch.timing([result.sequences_ids[0] for result in results])


def write_model(arrays: Arrays, folder: Path) -> None:
    """What its own converter for GPT-2 writes, from the same tensors."""
    config, tensors = arrays.config, arrays.tensors
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        config.num_layers, config.num_heads, activation=common_spec.Activation.GELUTanh
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = tensors["wte.weight"]
    decoder.position_encodings.encodings = tensors["wpe.weight"]
    decoder.projection.weight = arrays.head
    _norm(decoder.layer_norm, arrays, "ln_f")
    for index, layer in enumerate(decoder.layer):
        _norm(layer.self_attention.layer_norm, arrays, f"h.{index}.ln_1")
        _linear(layer.self_attention.linear[0], arrays, f"h.{index}.attn.c_attn")
        _linear(layer.self_attention.linear[1], arrays, f"h.{index}.attn.c_proj")
        _norm(layer.ffn.layer_norm, arrays, f"h.{index}.ln_2")
        _linear(layer.ffn.linear_0, arrays, f"h.{index}.mlp.c_fc")
        _linear(layer.ffn.linear_1, arrays, f"h.{index}.mlp.c_proj")
    spec.register_vocabulary([str(token_id) for token_id in range(config.vocab_size)])
    for special in ("bos_token", "eos_token", "unk_token"):
        setattr(spec.config, special, "0")  # there must be one; nothing ends with it
    spec.config.layer_norm_epsilon = config.norm_epsilon
    spec.validate()
    spec.optimize(quantization=None)
    folder.mkdir()
    spec.save(str(folder))


def _norm(spec: Any, arrays: Arrays, name: str) -> None:
    spec.gamma = arrays.tensors[f"{name}.weight"]
    spec.beta = arrays.tensors[f"{name}.bias"]


def _linear(spec: Any, arrays: Arrays, name: str) -> None:
    spec.weight = arrays.tensors[f"{name}.weight"]
    spec.bias = arrays.tensors[f"{name}.bias"]


def load(setting: Setting) -> Peer:
    """Convert and load; int8 is quantised while it is loaded, by the library itself."""
    if setting.precision not in ctranslate2.get_supported_compute_types("cpu"):
        raise Unavailable(f"no {setting.precision} on this processor")
    folder = setting.scratch / f"ctranslate2-{setting.precision}"
    write_model(read_arrays(setting.folder), folder)
    return Peer(
        ctranslate2.Generator(
            str(folder),
            device="cpu",
            compute_type=setting.precision,
            inter_threads=1,
            intra_threads=setting.num_threads,
        )
    )
