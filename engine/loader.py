"""From tensors to a running engine: precision, threads, slots, fingerprint are decided here."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping

import torch
from torch import Tensor

from engine.core import EngineCore
from engine.cpus import num_usable_cores
from engine.errors import EngineFailed
from engine.memory import available_bytes
from engine.messages import EngineConfig, ModelInfo
from engine.runner import Runner
from engine.scheduler import Scheduler
from engine.slot_pool import SlotPool
from model.config import GPTConfig
from model.decoder import GPT
from model.kernels import native
from model.kernels.native import AttentionFactory, NativeKernels
from model.linear import has_packed_kernels, pack
from model.slot_cache import SlotCache

MAX_AUTO_SLOTS = 64
"""On a CPU more rows than this add latency and hardly any throughput."""

SLOT_MEMORY_SHARE = 0.5
"""Of the memory that is left after the weights, at most this much becomes slots."""

MAX_THREADS = 1_024
"""A bound on mistakes: OpenMP ends the process when it cannot start as many as it is told."""

DRAW_SCHEME = "philox4x32-10/inverse-cdf"
CACHE_DTYPE = torch.float32

_KERNELS = ("auto", "torch", *native.PATHS)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build_core(
    config: GPTConfig,
    tensors: Mapping[str, Tensor],
    engine_config: EngineConfig,
    weights_hash: str,
    source: str,
) -> tuple[EngineCore, ModelInfo]:
    """Load a network and make an engine around it.

    ``tensors`` are named and shaped as model.decoder.parameter_shapes says, (out, in).
    Raises EngineFailed with every setting that is impossible here.
    """
    _check(config, engine_config)
    num_threads = engine_config.num_threads or num_usable_cores()
    torch.set_num_threads(num_threads)
    dtype = _dtype(engine_config.dtype)
    gpt, path = _load(config, tensors, dtype)
    context_len = engine_config.max_context or config.num_positions
    num_slots = _num_slots(config, context_len, engine_config.num_slots)
    cache = SlotCache(config, num_slots, context_len, CACHE_DTYPE)
    attention = AttentionFactory(config, cache, _kernels(engine_config.kernels))
    kernels = f"{path} products, {attention.path} attention"
    scheduler = Scheduler(SlotPool(num_slots), context_len, config.vocab_size, config.eos_token_ids)
    info = ModelInfo(
        vocab_size=config.vocab_size,
        context_len=context_len,
        num_parameters=config.num_parameters,
        num_layers=config.num_layers,
        num_channels=config.num_channels,
        num_heads=config.num_heads,
        eos_token_ids=config.eos_token_ids,
        weights_hash=weights_hash,
        device="cpu",
        dtype=str(dtype).removeprefix("torch."),
        kernels=kernels,
        num_slots=num_slots,
        slot_bytes=config.slot_bytes(CACHE_DTYPE.itemsize, context_len),
        num_threads=num_threads,
        fingerprint=_fingerprint(weights_hash, str(dtype), kernels, str(num_threads)),
        source=source,
    )
    return EngineCore(scheduler, Runner(gpt, cache, attention)), info


def _check(config: GPTConfig, engine_config: EngineConfig) -> None:
    problems = []
    if engine_config.device not in ("auto", "cpu"):
        problems.append(f"device must be auto or cpu, got {engine_config.device!r}")
    if engine_config.dtype not in ("auto", *_DTYPES):
        problems.append(f"dtype must be auto, {' or '.join(_DTYPES)}, got {engine_config.dtype!r}")
    if engine_config.kernels not in _KERNELS:
        problems.append(
            f"kernels must be one of {', '.join(_KERNELS)}, got {engine_config.kernels!r}"
        )
    elif engine_config.kernels in native.PATHS and native.load(engine_config.kernels) is None:
        problems.append(
            f"kernels {engine_config.kernels} are not to be had here: not built, or not this "
            "processor's"
        )
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


def _kernels(name: str) -> NativeKernels | None:
    """The native kernels asked for; with ``auto`` the best there are, or None."""
    if name == "torch":
        return None
    return native.load(None if name == "auto" else name)


def _dtype(name: str) -> torch.dtype:
    """``auto`` is bfloat16 where the processor multiplies it natively, else float32."""
    if name != "auto":
        return _DTYPES[name]
    return torch.bfloat16 if has_packed_kernels(torch.bfloat16) else torch.float32


def _load(config: GPTConfig, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> tuple[GPT, str]:
    """The network with packed weights, and the kernel path taken. Memory-mapped until packed."""
    gpt = GPT.on_meta(config)
    state = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if config.is_head_tied:
        state["lm_head.weight"] = state["wte.weight"]
    gpt.load_state_dict(state, strict=True, assign=True)
    gpt.requires_grad_(False).eval()
    for module in gpt.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.float()
    return gpt, pack(gpt, dtype)


def _num_slots(config: GPTConfig, context_len: int, wanted: int | None) -> int:
    """``wanted`` if there is memory for so many; without it a share of what there is."""
    slot_bytes = config.slot_bytes(CACHE_DTYPE.itemsize, context_len)
    available = available_bytes() if wanted else int(available_bytes() * SLOT_MEMORY_SHARE)
    if available >= slot_bytes * (wanted or 1):
        return wanted or min(MAX_AUTO_SLOTS, available // slot_bytes)
    found = f"{slot_bytes:,} bytes for {context_len} positions, and {available:,} are to be had"
    if wanted:
        raise EngineFailed(
            [f"slots must be at most {available // slot_bytes}, got {wanted}: one takes {found}"]
        )
    raise EngineFailed([f"not even one slot fits: it takes {found}; lower max_context"])


def _fingerprint(*parts: str) -> str:
    """A short name for all that a seeded answer depends on."""
    version = importlib.metadata.version("gpt2-server")
    text = "|".join([*parts, DRAW_SCHEME, torch.__version__, version])
    return "fp_" + hashlib.sha256(text.encode()).hexdigest()[:16]
