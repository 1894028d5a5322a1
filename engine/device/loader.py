"""From tensors to a running engine on a GPU: precision, kernels, slots, fingerprint."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from engine.device.build import DeviceShape, MakeDecoder, device_core, device_runner
from engine.device.core import DeviceCore
from engine.device.cuda import CudaStream
from engine.device.graphs import MAX_CHUNK_TOKENS, MAX_ROWS
from engine.device.kernel_decoder import KernelDecoder
from engine.device.memory import GRAPH_BYTES, Room, fitting_slots
from engine.device.network import DTYPES, device_gpt
from engine.device.state import MAX_EOS_IDS
from engine.device.torch_decoder import Decoder, TorchDecoder
from engine.errors import EngineFailed
from engine.messages import EngineConfig, ModelInfo
from engine.networks import Weights
from model.config import GPTConfig
from model.kernels.gpu.decoder import GPUDecoder
from model.kernels.gpu.weights import Weights as KernelWeights
from model.quantised import QuantisedMatrix
from model.quantising import EMBEDDING, HEAD
from model.slot_cache import SlotCache

DRAW_SCHEME = "philox4x32-10/gumbel"

KERNELS = ("auto", "torch", "triton", "triton-fast")
"""``triton`` keeps a row's bits in any company; ``triton-fast`` does not from 64 rows on."""

ROWS_AT_START = 64
"""Graphs of batches up to this size are captured before the first request."""

MAX_GRAPHS = 80
"""Buckets of both kinds of steps, and of prompts."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a configuration comes to on a GPU."""

    dtype: str
    kv_dtype: str
    kernels: str
    context_len: int


def device_of(name: str) -> str:
    """``cpu`` or ``cuda``, which ``auto`` takes where there is one. Raises EngineFailed."""
    if name not in ("auto", "cpu", "cuda"):
        raise EngineFailed([f"device must be auto, cpu or cuda, got {name!r}"])
    has_gpu = name != "cpu" and torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        found = f"torch {torch.__version__} is built with {built} and finds no GPU"
        raise EngineFailed([f"device cuda is not to be had here: {found}; possible: cpu"])
    return "cuda" if has_gpu else "cpu"


def chosen(config: GPTConfig, engine_config: EngineConfig) -> Choice:
    """The settings, each checked; int8 and int4 are for CPUs. Raises EngineFailed with all."""
    problems = []
    names = ", ".join(("auto", *DTYPES))
    for field in ("dtype", "kv_dtype"):
        value = getattr(engine_config, field)
        if value not in ("auto", *DTYPES):
            problems.append(f"{field} must be one of {names} on a GPU, got {value!r}")
    problems += _kernels_problems(config, engine_config.kernels)
    if len(config.eos_token_ids) > MAX_EOS_IDS:
        problems.append(
            f"a GPU takes at most {MAX_EOS_IDS} end-of-text ids, the checkpoint has "
            f"{len(config.eos_token_ids)}"
        )
    slots = engine_config.num_slots
    if slots is not None and slots < 1:
        problems.append(f"slots must be at least 1, got {slots}")
    context = engine_config.max_context
    if context is not None and not 1 <= context <= config.num_positions:
        problems.append(
            f"max_context must be from 1 to the checkpoint's {config.num_positions}, got {context}"
        )
    if problems:
        raise EngineFailed(problems)
    dtype = next(iter(DTYPES)) if engine_config.dtype == "auto" else engine_config.dtype
    kv_dtype = dtype if engine_config.kv_dtype == "auto" else engine_config.kv_dtype
    kernels = engine_config.kernels
    if kernels == "auto":
        is_kernel_made = find_spec("triton") is not None and not config.is_post_norm
        kernels = "triton" if is_kernel_made else "torch"
    return Choice(dtype, kv_dtype, kernels, context or config.num_positions)


def _kernels_problems(config: GPTConfig, kernels: str) -> list[str]:
    if kernels not in KERNELS:
        return [f"kernels must be one of {', '.join(KERNELS)} on a GPU, got {kernels!r}"]
    if not kernels.startswith("triton"):
        return []
    problems = []
    if find_spec("triton") is None:
        problems.append(f"kernels {kernels} need triton, which is not installed")
    if config.is_post_norm:
        problems.append(
            f"kernels {kernels} have no norms after the sub-layers (norm_placement post), as this "
            f"checkpoint needs them; possible: torch"
        )
    return problems


def plain_tensors(weights: Weights) -> dict[str, Tensor]:
    """All tensors by name; those of a quantised checkpoint are multiplied out."""
    tensors = {name: matrix.dequantise() for name, matrix in weights.matrices.items()}
    tensors |= weights.tensors
    if EMBEDDING not in tensors:
        tensors[EMBEDDING] = tensors[HEAD]
    if weights.config.is_head_tied:
        tensors.pop(HEAD, None)
    return tensors


def decoder_maker(
    config: GPTConfig, tensors: Mapping[str, Tensor], choice: Choice, device: torch.device
) -> MakeDecoder:
    """Brings the weights to the device; what it returns makes a decoder around a cache."""
    dtype = DTYPES[choice.dtype]
    if choice.kernels == "torch":
        return partial(TorchDecoder, device_gpt(config, tensors, dtype, device, is_strict=True))
    from model.kernels.gpu import launch

    weights = KernelWeights.from_tensors(config, tensors, dtype, device)
    is_strict = choice.kernels != "triton-fast"

    def make(cache: SlotCache) -> Decoder:
        decoder = GPUDecoder(config, weights, cache, launch, is_strict)
        return KernelDecoder(decoder, MAX_ROWS, MAX_CHUNK_TOKENS)

    return make


def build_device_core(
    config: GPTConfig,
    tensors: Mapping[str, Tensor],
    engine_config: EngineConfig,
    weights_hash: str,
    source: str,
    matrices: Mapping[str, QuantisedMatrix] | None = None,
) -> tuple[DeviceCore, ModelInfo]:
    """As engine.loader.build_core, on the first GPU. Raises EngineFailed."""
    choice = chosen(config, engine_config)
    stream = CudaStream()
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    whole = plain_tensors(Weights(config, tensors, matrices or {}))
    make_decoder = decoder_maker(config, whole, choice, stream.device)
    slot_bytes = config.slot_bytes(DTYPES[choice.kv_dtype].itemsize, choice.context_len)
    most = min(engine_config.num_slots or MAX_ROWS, MAX_ROWS)
    room = rehearsed_room(config, make_decoder, stream, choice, most)
    num_slots = fitting_slots(
        room, slot_bytes, choice.context_len, engine_config.num_slots, MAX_ROWS
    )
    shape = DeviceShape(
        num_slots, choice.context_len, DTYPES[choice.kv_dtype], keeps_generated=False
    )
    core = device_core(config, make_decoder, stream, shape)
    core.runner.prepare(ROWS_AT_START)
    return core, _info(config, engine_config, choice, num_slots, slot_bytes, weights_hash, source)


def rehearsed_room(
    config: GPTConfig, make_decoder: MakeDecoder, stream: CudaStream, choice: Choice, most: int
) -> Room:
    """What is free beside the weights, and what the largest steps take, found by doing them."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    free = int(torch.cuda.mem_get_info(stream.device)[0])
    before = torch.cuda.memory_allocated(stream.device)
    torch.cuda.reset_peak_memory_stats(stream.device)
    shape = DeviceShape(1, choice.context_len, DTYPES[choice.kv_dtype])
    runner = device_runner(config, make_decoder, stream, shape, most)
    runner.rehearse()
    torch.cuda.synchronize()
    work = torch.cuda.max_memory_allocated(stream.device) - before
    del runner
    torch.cuda.empty_cache()
    return Room(free, work + MAX_GRAPHS * GRAPH_BYTES)


def _info(
    config: GPTConfig,
    engine_config: EngineConfig,
    choice: Choice,
    num_slots: int,
    slot_bytes: int,
    weights_hash: str,
    source: str,
) -> ModelInfo:
    name = torch.cuda.get_device_name(0)
    return ModelInfo(
        vocab_size=config.vocab_size,
        context_len=choice.context_len,
        num_parameters=config.num_parameters,
        num_layers=config.num_layers,
        num_channels=config.num_channels,
        num_heads=config.num_heads,
        eos_token_ids=config.eos_token_ids,
        weights_hash=weights_hash,
        device=f"cuda ({name})",
        dtype=choice.dtype,
        kv_dtype=choice.kv_dtype,
        kernels=choice.kernels,
        num_slots=num_slots,
        slot_bytes=slot_bytes,
        num_threads=engine_config.num_threads or 1,
        fingerprint=fingerprint(weights_hash, choice.dtype, choice.kv_dtype, choice.kernels, name),
        source=source,
    )


def fingerprint(*parts: str) -> str:
    """A short name for all that a seeded answer depends on: the draw scheme, versions, parts."""
    version = importlib.metadata.version("gpt2-server")
    text = "|".join([*parts, DRAW_SCHEME, torch.__version__, version])
    return "fp_" + hashlib.sha256(text.encode()).hexdigest()[:16]
