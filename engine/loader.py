"""From tensors to a running engine: precision, threads, slots, fingerprint are decided here."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from engine.core import EngineCore
from engine.cpus import num_usable_cores
from engine.errors import EngineFailed
from engine.memory import available_bytes, return_freed_bytes
from engine.messages import EngineConfig, ModelInfo, TaskInfo
from engine.networks import (
    DTYPES,
    KV_DTYPES,
    CacheShape,
    Weights,
    build_network,
    chosen_kv_dtype,
    padded_slot_bytes,
)
from engine.runner import Runner
from engine.scheduler import Scheduler
from engine.slot_pool import SlotPool
from engine.tasks import (
    LoadedTask,
    OwnTrunk,
    Trunk,
    adapters,
    own_trunks,
    served,
    special_embeddings,
    task_infos,
    with_fingerprints,
)
from model.config import GPTConfig
from model.fidelity import MAX_TOKENS, NUM_SEQUENCES, Fidelity, first_id, measure
from model.kernels import native
from model.kernels.decoder import unsupported
from model.kernels.native import NativeKernels
from model.linear import has_packed_kernels
from model.quantised import Int4Matrix, QuantisedMatrix
from model.quantising import METHODS, method_problems

MAX_AUTO_SLOTS = 64
"""On a CPU more rows than this add latency and hardly any throughput."""

SLOT_MEMORY_SHARE = 0.5
"""Of the memory that is left after the weights, at most this much becomes slots."""

MAX_THREADS = 1_024
"""A bound on mistakes: OpenMP ends the process when it cannot start as many as it is told."""

DRAW_SCHEME = "philox4x32-10/inverse-cdf"

_KERNELS = ("auto", "torch", *native.PATHS)


def build_core(
    config: GPTConfig,
    tensors: Mapping[str, Tensor],
    engine_config: EngineConfig,
    weights_hash: str,
    source: str,
    matrices: Mapping[str, QuantisedMatrix] | None = None,
    tasks: Sequence[LoadedTask] = (),
) -> tuple[EngineCore, ModelInfo]:
    """Load a network and make an engine around it, and around what ``tasks`` bring.

    ``tensors`` are named and shaped as model.decoder.parameter_shapes says, (out, in); of a
    quantised checkpoint the matrices come as ``matrices`` instead.
    Raises EngineFailed with every setting that is impossible here.
    """
    weights = Weights(config, tensors, matrices or {}, adapters(tasks))
    _check(weights, engine_config)
    num_threads = engine_config.num_threads or num_usable_cores()
    torch.set_num_threads(num_threads)
    kernels = _kernels(engine_config.kernels, config)
    wanted = engine_config.kv_dtype
    dtype, weights, fidelity = _chosen(engine_config.dtype, wanted, weights, kernels)
    kv_dtype = chosen_kv_dtype(wanted, dtype)
    context_len = engine_config.max_context or config.num_positions
    infos = task_infos(config, context_len, tasks)
    own = own_trunks(tasks, infos)
    sizes = [(config, context_len), *((one.weights.config, one.num_positions) for one in own)]
    bytes_each = sum(padded_slot_bytes(kv_dtype, *size, kernels) for size in sizes)
    num_slots = _num_slots(bytes_each, context_len, engine_config.num_slots)
    network, cache, path = build_network(
        weights,
        dtype,
        kernels,
        CacheShape(num_slots, context_len, kv_dtype),
        special_embeddings(tasks, config.num_channels),
    )
    trunks = [
        _trunk(one, dtype, engine_config.kernels, (num_slots, kv_dtype), tasks) for one in own
    ]
    scheduler = Scheduler(SlotPool(num_slots), context_len, config.vocab_size, config.eos_token_ids)
    made = _Made(
        *(dtype, kv_dtype, path, context_len, num_slots, bytes_each, num_threads, fidelity)
    )
    info = _model_info(config, weights_hash, source, made, infos)
    return_freed_bytes()
    return EngineCore(scheduler, Runner(network, cache, served(tasks), trunks)), info


@dataclass(frozen=True, slots=True)
class _Made:
    """What the settings came to."""

    dtype: str
    kv_dtype: str
    path: str
    context_len: int
    num_slots: int
    slot_bytes: int
    num_threads: int
    fidelity: Fidelity | None


def _model_info(
    config: GPTConfig, weights_hash: str, source: str, made: _Made, tasks: Sequence[TaskInfo]
) -> ModelInfo:
    fingerprint = partial(
        _fingerprint, weights_hash, made.dtype, made.kv_dtype, made.path, str(made.num_threads)
    )
    return ModelInfo(
        vocab_size=config.vocab_size,
        context_len=made.context_len,
        num_parameters=config.num_parameters,
        num_layers=config.num_layers,
        num_channels=config.num_channels,
        num_heads=config.num_heads,
        eos_token_ids=config.eos_token_ids,
        weights_hash=weights_hash,
        device="cpu",
        dtype=made.dtype,
        kv_dtype=made.kv_dtype,
        kernels=made.path,
        num_slots=made.num_slots,
        slot_bytes=made.slot_bytes,
        num_threads=made.num_threads,
        fingerprint=fingerprint(),
        source=source,
        log_loss_rise=None if made.fidelity is None else made.fidelity.share,
        tasks=with_fingerprints(tasks, fingerprint),
    )


def _trunk(
    own: OwnTrunk,
    dtype: str,
    kernels: str,
    slots: tuple[int, str],
    tasks: Sequence[LoadedTask],
) -> Trunk:
    """A task's own decoder; ``slots`` are their number and the dtype of the cache."""
    config, (num_slots, kv_dtype) = own.weights.config, slots
    network, cache, _ = build_network(
        own.weights.quantised(dtype) if dtype in METHODS else own.weights,
        dtype,
        _kernels(kernels, config),
        CacheShape(num_slots, own.num_positions, kv_dtype),
        special_embeddings(tasks, config.num_channels),
    )
    return Trunk(network, cache)


def _check(weights: Weights, engine_config: EngineConfig) -> None:
    config = weights.config
    problems = _dtype_problems(weights, engine_config.dtype)
    if engine_config.kv_dtype not in ("auto", *KV_DTYPES):
        names = ", ".join(("auto", *KV_DTYPES[:-1]))
        problems.append(
            f"kv_dtype must be {names} or {KV_DTYPES[-1]}, got {engine_config.kv_dtype!r}"
        )
    if engine_config.device not in ("auto", "cpu"):
        problems.append(f"device must be auto or cpu, got {engine_config.device!r}")
    if engine_config.kernels not in _KERNELS:
        problems.append(
            f"kernels must be one of {', '.join(_KERNELS)}, got {engine_config.kernels!r}"
        )
    elif engine_config.kernels in native.PATHS and native.load(engine_config.kernels) is None:
        possible = ", ".join(("torch", *native.available_paths()))
        problems.append(
            f"kernels {engine_config.kernels} are not to be had here: not built, or not this "
            f"processor's; possible: {possible}"
        )
    elif engine_config.kernels in native.PATHS and (reason := unsupported(config)):
        problems.append(f"kernels {engine_config.kernels} cannot run this checkpoint: {reason}")
    num_slots, num_threads = engine_config.num_slots, engine_config.num_threads
    if num_slots is not None and num_slots < 1:
        problems.append(f"slots must be at least 1, got {num_slots}")
    if num_threads is not None and not 1 <= num_threads <= MAX_THREADS:
        problems.append(f"threads must be from 1 to {MAX_THREADS}, got {num_threads}")
    context = engine_config.max_context
    if context is not None and not 1 <= context <= config.num_positions:
        problems.append(
            f"max_context must be from 1 to the checkpoint's {config.num_positions}, got {context}"
        )
    if problems:
        raise EngineFailed(problems)


def _dtype_problems(weights: Weights, dtype: str) -> list[str]:
    if dtype not in ("auto", *DTYPES):
        return [f"dtype must be auto, {', '.join(DTYPES[:-1])} or {DTYPES[-1]}, got {dtype!r}"]
    stored = _stored_method(weights)
    if stored and dtype not in ("auto", stored):
        return [f"dtype must be auto or {stored}, as the checkpoint is stored, got {dtype!r}"]
    problems = method_problems(weights.config, dtype) if dtype in METHODS else []
    return [f"dtype {problem}; possible: {', '.join(DTYPES[:-1])}" for problem in problems]


def _stored_method(weights: Weights) -> str | None:
    """``int4`` where any matrix is, since the head stays in int8."""
    if not weights.matrices:
        return None
    is_int4 = any(isinstance(matrix, Int4Matrix) for matrix in weights.matrices.values())
    return "int4" if is_int4 else "int8"


def _kernels(name: str, config: GPTConfig) -> NativeKernels | None:
    """The native kernels asked for; with ``auto`` the best there are, or None."""
    if name == "torch" or unsupported(config):
        return None
    return native.load(None if name == "auto" else name)


def _chosen(
    name: str, kv_dtype: str, weights: Weights, kernels: NativeKernels | None
) -> tuple[str, Weights, Fidelity | None]:
    """The dtype, the weights in it if it quantises, and what it costs where that was measured.

    ``auto`` is how a quantised checkpoint is stored; else int8, if kernels that are fast at it
    are there and it proves to keep this model's quality; else bfloat16 where the processor
    multiplies it natively, else float32.
    """
    if name != "auto":
        return name, weights.quantised(name) if name in METHODS else weights, None
    if stored := _stored_method(weights):
        return stored, weights, None
    has_bfloat16 = (
        has_packed_kernels(torch.bfloat16) if kernels is None else kernels.path == "avx512"
    )
    wide = "bfloat16" if has_bfloat16 else "float32"
    if kernels is None or kernels.path == "plain":
        return wide, weights, None
    int8 = weights.quantised("int8")
    fidelity = _fidelity((weights, wide), (int8, "int8"), kv_dtype, kernels)
    return ("int8", int8, fidelity) if fidelity.is_kept else (wide, weights, fidelity)


def _fidelity(
    reference: tuple[Weights, str],
    candidate: tuple[Weights, str],
    kv_dtype: str,
    kernels: NativeKernels,
) -> Fidelity:
    """What ``candidate`` costs with its cache; both are weights and their dtype."""
    config = reference[0].config
    num_tokens = min(MAX_TOKENS, config.num_positions)
    first, second = (
        build_network(weights, dtype, kernels, CacheShape(NUM_SEQUENCES, num_tokens, kv))[0]
        for (weights, dtype), kv in ((reference, "auto"), (candidate, kv_dtype))
    )
    return measure(first, second, first_id(config), num_tokens)


def _num_slots(bytes_each: int, context_len: int, wanted: int | None) -> int:
    """``wanted`` if there is memory for so many; without it a share of what there is."""
    available = available_bytes() if wanted else int(available_bytes() * SLOT_MEMORY_SHARE)
    if available >= bytes_each * (wanted or 1):
        return wanted or min(MAX_AUTO_SLOTS, available // bytes_each)
    found = f"{bytes_each:,} bytes for {context_len} positions, and {available:,} are to be had"
    if wanted:
        raise EngineFailed(
            [f"slots must be at most {available // bytes_each}, got {wanted}: one takes {found}"]
        )
    raise EngineFailed([f"not even one slot fits: it takes {found}; lower max_context"])


def _fingerprint(*parts: str) -> str:
    """A short name for all that a seeded answer depends on."""
    version = importlib.metadata.version("gpt2-server")
    text = "|".join([*parts, DRAW_SCHEME, torch.__version__, version])
    return "fp_" + hashlib.sha256(text.encode()).hexdigest()[:16]
