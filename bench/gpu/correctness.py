"""Each operation of the decoder against its reference, in a real step over a poisoned cache."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from bench.gpu.plan import Part, Plan, random_weights, released
from engine.device.graphs import SPAN_BUCKETS, TOKEN_BUCKETS, Inputs, bucket_of
from engine.device.kernel_decoder import KernelDecoder
from engine.device.network import DTYPES
from engine.device.runner import chunk_lines
from engine.device.state import DeviceState
from engine.step import StepRow
from model.config import GPTConfig
from model.kernels.gpu import reference
from model.kernels.gpu.buffers import SplitScratch, TileBest
from model.kernels.gpu.decoder import GPUDecoder
from model.kernels.gpu.operations import Operations
from model.kernels.gpu.weights import Weights
from model.slot_cache import SlotCache

NUM_SLOTS = 8
SCRATCH = (SplitScratch, TileBest)
LIMITS = {"float32": 1e-3, "bfloat16": 1e-2, "float16": 1e-2}


class Comparing:
    """Operations that are done twice, and how far the two ever were apart, by name."""

    def __init__(self, operations: Any) -> None:
        self.errors: dict[str, float] = {}
        self._operations = operations

    def __getattr__(self, name: str) -> Callable[..., None]:
        real, plain = getattr(self._operations, name), getattr(reference, name)

        def both(*args: Any) -> None:
            others = copy.deepcopy(args)
            real(*args)
            plain(*others)
            pairs = zip(tensors_of(args), tensors_of(others), strict=True)
            error = max((relative_error(a, b) for a, b in pairs), default=0.0)
            self.errors[name] = max(self.errors.get(name, 0.0), error)

        return both


def tensors_of(value: Any) -> Iterator[Tensor]:
    """All float tensors in arguments, but scratch, whose content is each path's own."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from tensors_of(item)
    elif is_dataclass(value) and not isinstance(value, SCRATCH):
        for one in fields(value):
            if one.name != "scratch":
                yield from tensors_of(getattr(value, one.name))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Of the norm; infinite where only one is NaN. Poison on both sides is as it was."""
    if not found.numel():
        return 0.0
    found, expected = found.double(), expected.double()
    if not torch.equal(found.isnan(), expected.isnan()):
        return float("inf")
    found, expected = found.nan_to_num(0, 0, 0), expected.nan_to_num(0, 0, 0)
    norm = float(expected.norm())
    return float((found - expected).norm()) / norm if norm else float(found.norm())


@dataclass(frozen=True, slots=True)
class _Bench:
    """A decoder of two layers over a cache of NaN, and the state of a few slots."""

    decoder: KernelDecoder
    state: DeviceState
    inputs: Inputs


def measure(plan: Plan) -> Part:
    """A prefill and decode steps of several batches, simple and full draws."""
    rows, values = [], {}
    for dtype in ("float32", plan.dtype) if not plan.is_dry else (plan.dtype,):
        with released(plan):
            errors, agreement = compare(plan, dtype)
        values[dtype] = {"errors": errors, "top1_agreement": agreement}
        for name, error in errors.items():
            rows.append((f"{name}, {dtype}", error, LIMITS[dtype], error <= LIMITS[dtype]))
        rows.append((f"top-1 agreement, {dtype}", agreement, 1.0, agreement == 1.0))
    return Part(("operation", "relative error", "limit", "holds"), rows, values)


def compare(plan: Plan, dtype: str) -> tuple[dict[str, float], float]:
    """Errors by operation, and the share of greedy tokens that both paths draw."""
    config = replace(plan.main_config, num_layers=min(2, plan.main_config.num_layers))
    comparing = Comparing(_operations(plan))
    first = _bench(plan, config, dtype, cast(Operations, comparing))
    plain = _bench(plan, config, dtype, cast(Operations, reference))
    tokens = [_steps(bench, plan) for bench in (first, plain)]
    same = sum(a == b for a, b in zip(*tokens, strict=True))
    return comparing.errors, same / len(tokens[0])


def _operations(plan: Plan) -> Any:
    if plan.is_dry:
        return reference
    from model.kernels.gpu import launch

    return launch


def _bench(plan: Plan, config: GPTConfig, dtype: str, operations: Operations) -> _Bench:
    device = plan.device
    weights = Weights.from_tensors(config, random_weights(config, device), DTYPES[dtype], device)
    cache = SlotCache(config, NUM_SLOTS + 1, dtype=DTYPES[dtype], device=device)
    for slot in range(NUM_SLOTS + 1):
        cache.poison(slot)
    decoder = GPUDecoder(config, weights, cache, operations)
    state = DeviceState.allocate(NUM_SLOTS, config.num_positions, device)
    return _Bench(KernelDecoder(decoder, 64, 256), state, Inputs.allocate(64, device))


@torch.inference_mode()
def _steps(bench: _Bench, plan: Plan) -> list[int]:
    """The tokens after prompts of uneven lengths, then after a few decode steps."""
    state, decoder = bench.state, bench.decoder
    lengths = [plan.context // (i + 1) % 50 + 2 for i in range(4)]
    rows = [StepRow(i, i, 0, tuple(range(i, i + length)), None) for i, length in enumerate(lengths)]
    num_tokens = bucket_of(sum(lengths), TOKEN_BUCKETS)
    num_spans = bucket_of(len(rows), SPAN_BUCKETS)
    words = chunk_lines(rows, num_tokens, num_spans, state.dummy)
    bench.inputs.chunk[: len(words)] = torch.from_numpy(words).to(plan.device)
    chunk = bench.inputs.chunk_of(num_tokens, num_spans)
    slots = torch.arange(4, device=plan.device)
    state.length[:4] = torch.tensor(lengths, dtype=torch.int32, device=plan.device)
    hidden = decoder.prefill(chunk)[chunk.last_rows.long()].clone()
    ids = decoder.draw(hidden, state, slots, is_full=False).ids.clone()
    tokens: list[int] = ids.tolist()
    for step in range(3):
        hidden = decoder.decode(ids.long(), slots, state.length[slots].long())
        state.length[slots] += 1
        ids = decoder.draw(hidden, state, slots, is_full=step == 1).ids.clone()
        tokens += ids.tolist()
    return tokens
