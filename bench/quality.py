"""What fewer bits cost: bits per byte of a checkpoint's own text in every precision.

``python -m bench.quality TEXT... [--held-out NAME...] [--windows 8]``: a TEXT is a text file, or an
archive or folder of which the texts that ``--held-out`` names are scored. Of each, so many
windows as long as the context that do not overlap. llama.cpp's Q8_0 and Q4_0 are simulated on the
same weights, with the head in Q8_0. "served" rounds activations to 8 bits too, as both do (one
scale a row here, a block there), and here keys and values; the others are what the weights cost.
Prints a table for people and a JSON line for scripts.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.attention import CausalAttention
from model.config import GPTConfig
from model.decoder import GPT, Attend
from model.equalise import norms
from model.linear import pack_quantised
from model.network import gpt_with
from model.quantising import EMBEDDING, HEAD, quantise_tensors
from model.slot_cache import whole_numbers
from model.tokenizer import Tokenizer
from training.documents import Document, read_corpus
from weights.checkpoint import open_checkpoint

BLOCK_LEN = 32
"""Inputs of one of llama.cpp's blocks."""

OUTLIER_GAIN = 30.0
OUTLIER_SHARE = 0.01

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Windows:
    """Scored ids of one text: inputs and targets (B, T), and how many bytes the targets are."""

    name: str
    inputs: Tensor
    targets: Tensor
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Cost:
    """One precision on one text: ``rise`` is the share of bits per byte above float32's."""

    precision: str
    text: str
    bits_per_byte: float
    rise: float


def q8_0(weight: Tensor) -> Tensor:
    """llama.cpp's Q8_0 (ggml-quants.c: quantize_row_q8_0_ref) and back, (M, K)."""
    blocks = weight.reshape(-1, BLOCK_LEN)
    exact = blocks.abs().amax(1, keepdim=True) / 127
    values = (blocks * _inverse(exact)).round()
    return (values * exact.half().float()).view_as(weight)


def q4_0(weight: Tensor) -> Tensor:
    """llama.cpp's Q4_0 (ggml-quants.c: quantize_row_q4_0_ref) and back, (M, K)."""
    blocks = weight.reshape(-1, BLOCK_LEN)
    exact = blocks.gather(1, blocks.abs().argmax(1, keepdim=True)) / -8
    values = (blocks * _inverse(exact) + 8.5).floor().clamp(0, 15) - 8
    return (values * exact.half().float()).view_as(weight)


def with_outliers(config: GPTConfig, tensors: Tensors) -> dict[str, Tensor]:
    """The same function with some channels behind every norm OUTLIER_GAIN times as large."""
    out = dict(tensors)
    count = max(1, round(OUTLIER_SHARE * config.num_channels))
    channels = torch.randperm(config.num_channels, generator=torch.Generator().manual_seed(0))
    factors = torch.ones(config.num_channels)
    factors[channels[:count]] = OUTLIER_GAIN
    for norm, matrix in norms(config):
        for name in (f"{norm}.weight", f"{norm}.bias"):
            out[name] = out[name] * factors
        out[matrix] = out[matrix] / factors
    return out


def precisions(config: GPTConfig, tensors: Tensors) -> Iterator[tuple[str, GPT]]:
    """Every precision's network, float32 first; ``tensors`` are float32."""
    yield "float32", gpt_with(config, tensors)
    yield "bfloat16", gpt_with(config, {name: t.bfloat16().float() for name, t in tensors.items()})
    for method in ("int8", "int4"):
        plain, matrices = quantise_tensors(config, tensors, method)
        plain[EMBEDDING] = matrices[HEAD].dequantise() if config.is_head_tied else plain[EMBEDDING]
        weights = {name: matrix.dequantise() for name, matrix in matrices.items()}
        yield method, gpt_with(config, {**plain, **weights})
        served = gpt_with(config, {**plain, **weights})
        pack_quantised(served, matrices)
        yield f"{method} served", served
    for name, of_layers in (("Q8_0", q8_0), ("Q4_0", q4_0)):
        gpt = _simulated(config, tensors, of_layers)
        yield name, gpt
        for module in gpt.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_pre_hook(lambda _, inputs: (q8_0(inputs[0]),))
        yield f"{name} served", gpt


def _simulated(config: GPTConfig, tensors: Tensors, of_layers: Callable[[Tensor], Tensor]) -> GPT:
    matrices = {
        name: of_layers(tensor)
        for name, tensor in tensors.items()
        if name.startswith("h.") and tensor.ndim == 2
    }
    head = q8_0(tensors.get(HEAD, tensors[EMBEDDING]))
    embedding = head if config.is_head_tied else q8_0(tensors[EMBEDDING])
    return gpt_with(config, {**tensors, **matrices, HEAD: head, EMBEDDING: embedding})


def with_int8_cache(config: GPTConfig, attend: Attend) -> Attend:
    """Attention whose keys and values are rounded as an int8 SlotCache rounds them."""

    def rounded(x: Tensor) -> Tensor:
        numbers, scales = whole_numbers(x.reshape(len(x), config.num_heads, config.head_len))
        return (numbers * scales.transpose(0, 1).unsqueeze(-1)).reshape(x.shape)  # (N, C)

    return lambda layer, query, key, value: attend(layer, query, rounded(key), rounded(value))


@torch.inference_mode()
def bits_per_byte(gpt: GPT, text: Windows, *, has_int8_cache: bool = False) -> float:
    """Bits of surprise per byte of the targets."""
    nats = 0.0
    for ids, targets in zip(text.inputs, text.targets, strict=True):
        attend: Attend = CausalAttention(gpt.config, len(ids))
        if has_int8_cache:
            attend = with_int8_cache(gpt.config, attend)
        logits = gpt.logits(gpt(ids, torch.arange(len(ids)), attend))  # (T, V)
        nats += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
    return nats / math.log(2) / text.num_bytes


def costs(config: GPTConfig, tensors: Tensors, texts: Sequence[Windows]) -> Iterator[Cost]:
    """Every precision on every text."""
    base: dict[str, float] = {}
    for precision, gpt in precisions(config, tensors):
        for text in texts:
            is_cached = precision in ("int8 served", "int4 served")
            found = bits_per_byte(gpt, text, has_int8_cache=is_cached)
            reference = base.setdefault(text.name, found)
            yield Cost(precision, text.name, found, found / reference - 1)


def windows(
    documents: Sequence[Document], tokenizer: Tokenizer, config: GPTConfig, count: int, name: str
) -> Windows:
    """The first ``count`` windows of each document, as one text."""
    start = config.eos_token_ids[0]
    length = config.num_positions
    parts = []
    for document in documents:
        ids = torch.tensor([start, *tokenizer.encode(document.text)])
        whole = min(count, (len(ids) - 1) // length) * length
        parts.append(torch.stack((ids[:whole], ids[1 : whole + 1])).view(2, -1, length))
    inputs, targets = torch.cat(parts, 1)  # (B, T) each
    special = {*tokenizer.special_tokens.values()}
    num_bytes = sum(len(tokenizer.token_bytes(i)) for i in targets.flatten().tolist())
    if special & {*targets.flatten().tolist()}:
        raise SystemExit(f"{name} holds a special token, which is no text")
    return Windows(name, inputs, targets, num_bytes)


def read_texts(path: Path, held_out: Sequence[str]) -> Sequence[Document]:
    """The held-out texts of a corpus, or a file as one text."""
    if path.is_dir() or ".tar" in path.name:
        return read_corpus(path, held_out).held_out
    return [Document(path.name, path.read_text())]


def _inverse(x: Tensor) -> Tensor:
    return torch.where(x == 0, 0.0, 1 / x)


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=Path("weights/bundled"))
    parser.add_argument("--held-out", nargs="+", default=[])
    parser.add_argument("--windows", type=int, default=8, help="of each text")
    options = parser.parse_args()
    checkpoint = open_checkpoint(options.checkpoint)
    config, tokenizer = checkpoint.config, Tokenizer.from_directory(options.checkpoint)
    tensors = {name: tensor.float() for name, tensor in checkpoint.tensors.items()}
    texts = [
        windows(read_texts(path, options.held_out), tokenizer, config, options.windows, path.name)
        for path in options.texts
    ]
    for text in texts:
        print(f"{text.name}: {text.targets.numel():,} tokens, {text.num_bytes:,} bytes")
    rows = []
    for title, given in (("", tensors), (" + outliers", with_outliers(config, tensors))):
        for cost in costs(config, given, texts):
            row = Cost(cost.precision + title, cost.text, cost.bits_per_byte, cost.rise)
            print(f"{row.precision:24} {row.text:24} {row.bits_per_byte:.4f}  {row.rise:+.2%}")
            rows.append(asdict(row))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
