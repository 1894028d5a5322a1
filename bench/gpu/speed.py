"""How fast: memory, decode steps of every size and batch, the whole engine, and its bits."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from bench.gpu.plan import HasTime, Part, Plan, released
from bench.shapes import SIZES
from engine.device.build import DeviceShape, device_core, device_runner
from engine.device.core import DeviceCore
from engine.device.launch import DecodeLaunch
from engine.device.network import DTYPES
from engine.device.runner import DeviceRunner
from engine.request import Request, SamplingParams
from engine.sequence import SequenceState
from model.config import GPTConfig

KEPT_FREE_BYTES = 6 << 30
"""For workspaces and graphs beside the slots of a sweep."""


def bandwidth(plan: Plan) -> Part:
    """Bytes a second, read and copied; a copy counts both ways."""
    source = torch.randn(plan.copy_bytes // 4, device=plan.device)
    target = torch.empty_like(source)
    found = {
        "read": source.nbytes / _seconds(plan, source.amax),
        "copy": 2 * source.nbytes / _seconds(plan, lambda: target.copy_(source)),
    }
    rows = [(name, value / 1e12) for name, value in found.items()]
    return Part(("memory", "TB/s"), rows, found)


def _seconds(plan: Plan, work: Any, rounds: int = 10) -> float:
    work()
    times = []
    for _ in range(rounds):
        plan.synchronize()
        started_s = time.perf_counter()
        work()
        plan.synchronize()
        times.append(time.perf_counter() - started_s)
    return statistics.median(times)


def sweep(plan: Plan, copy_rate: float, has_time: HasTime) -> Part:
    """Sizes by kernels by batches at one context, as shares of what the memory allows."""
    rows: list[tuple[object, ...]] = []
    values: dict[str, Any] = {}
    for size in plan.sizes:
        for kernels in plan.kernels:
            for batch in plan.torch_batches if kernels == "torch" else plan.batches:
                if kernels == "torch" and size != plan.sizes[0]:
                    continue
                name = f"{size} {kernels} B={batch}"
                if not has_time():
                    rows.append((name, None, None, None, "no time left"))
                    continue
                with released(plan):
                    try:
                        step_s = decode_step_s(plan, SIZES[size], kernels, batch)
                    except (RuntimeError, ValueError) as error:
                        rows.append((name, None, None, None, str(error).splitlines()[0][:60]))
                        continue
                floor_s = step_bytes(SIZES[size], plan, batch) / copy_rate
                values[name] = {"step_s": step_s, "rate": batch / step_s, "share": floor_s / step_s}
                rows.append((name, 1e6 * step_s, batch / step_s, floor_s / step_s, ""))
    return Part(("decode step", "us", "tokens/s", "of roofline", ""), rows, values)


def step_bytes(config: GPTConfig, plan: Plan, batch: int) -> int:
    """What a decode step has to read: the weights but for positions, and every row's slot."""
    element_bytes = DTYPES[plan.dtype].itemsize
    weights = config.num_parameters - config.num_positions * config.num_channels
    return weights * element_bytes + batch * config.slot_bytes(element_bytes, plan.context)


def decode_step_s(plan: Plan, config: GPTConfig, kernels: str, batch: int) -> float:
    """Seconds of one replay, many being queued. Raises RuntimeError for what does not fit."""
    needed = (batch + 1) * config.slot_bytes(DTYPES[plan.dtype].itemsize) + KEPT_FREE_BYTES
    if not plan.is_dry and needed > torch.cuda.mem_get_info()[0]:
        raise RuntimeError("does not fit")
    shape = DeviceShape(batch, config.num_positions, DTYPES[plan.dtype])
    make = plan.make_decoder(config, kernels, batch)
    runner = device_runner(config, make, plan.stream(), shape, batch)
    fill(runner, plan, config, batch)
    launch = decode_launch(batch)
    runner.collect(runner.decode(launch))
    flights = [runner.decode(launch) for _ in range(8)]
    landed = []
    for _ in range(plan.num_steps):
        landed.append(flights.pop(0))
        runner.collect(landed[-1])
        flights.append(runner.decode(launch))
    for flight in flights:
        runner.collect(flight)
    first, last = landed[0].ticket.end, landed[-1].ticket.end
    return last.since(first) / (len(landed) - 1)


def fill(runner: DeviceRunner, plan: Plan, config: GPTConfig, batch: int) -> None:
    """Random keys and values, random tokens, all slots in the middle of a long answer."""
    runner.cache.keys.normal_()
    runner.cache.values.normal_()
    state = runner.state
    state.history.random_(0, config.vocab_size)
    state.length[:batch] = plan.context
    state.prompt_len[:batch] = plan.context
    state.max_len[:batch] = config.num_positions + 1
    state.active[:batch] = 1
    state.temperature[:batch] = 1.0
    plan.synchronize()


def decode_launch(batch: int) -> DecodeLaunch:
    """Rows that nobody schedules."""
    request = Request(0, (0,), SamplingParams())
    sequences = tuple(SequenceState(request, 0.0, slot=slot) for slot in range(batch))
    return DecodeLaunch(sequences, False, None)


def make_core(plan: Plan, kernels: str, num_slots: int) -> DeviceCore:
    """The main size in an engine, its graphs captured."""
    config, dtype = plan.main_config, DTYPES[plan.dtype]
    shape = DeviceShape(num_slots, config.num_positions, dtype, keeps_generated=False)
    make = plan.make_decoder(config, kernels, num_slots)
    core = device_core(config, make, plan.stream(), shape)
    core.runner.prepare(num_slots)
    return core


def requests(plan: Plan, batch: int, **options: Any) -> list[Request]:
    """Prompts that share nothing."""
    vocab_size = plan.main_config.vocab_size
    return [
        Request(
            i,
            tuple((7 * i + 13 * j) % vocab_size for j in range(plan.prompt_len)),
            SamplingParams(max_tokens=plan.num_new, seed=i, ignore_eos=True, **options),
        )
        for i in range(batch)
    ]


def engine(plan: Plan) -> Part:
    """Scheduler, run-ahead and all: tokens a second once all rows decode, and the device idle."""
    rows, values = [], {}
    for batch in plan.peer_batches:
        with released(plan):
            core = make_core(plan, plan.kernels[0], batch)
            run(core, requests(plan, batch))
            rate = decode_rate(core, requests(plan, batch))
            idle = None if plan.is_dry else idle_share(core, requests(plan, batch))
        values[f"B={batch}"] = {"rate": rate, "idle": idle}
        rows.append((f"B={batch}", rate, idle, core.run_ahead.depth(has_waiting=False)))
    return Part(("engine", "tokens/s", "GPU idle", "run-ahead"), rows, values)


def run(core: DeviceCore, asked: list[Request]) -> dict[int, list[Any]]:
    """To their end: the log probabilities of each, or its tokens where none were asked for."""
    core.submit(asked)
    found: dict[int, list[Any]] = {one.request_id: [] for one in asked}
    while core.has_work:
        for output in core.step()[0]:
            found[output.request_id] += output.logprobs or output.token_ids
    return found


def decode_rate(core: DeviceCore, asked: list[Request]) -> float:
    """Tokens a second between the first moment when all rows have one and the first end."""
    core.submit(asked)
    started: set[int] = set()
    num_tokens, started_s = 0, 0.0
    while core.has_work:
        outputs, _ = core.step()
        if len(started) == len(asked):
            num_tokens += sum(len(output.token_ids) for output in outputs)
        else:
            started |= {output.request_id for output in outputs}
            started_s = time.perf_counter()
        if any(output.finish_reason for output in outputs):
            break
    elapsed_s = time.perf_counter() - started_s
    run(core, [])
    return num_tokens / elapsed_s


def idle_share(core: DeviceCore, asked: list[Request]) -> float:
    """The share of the time between the first and the last kernel in which none ran."""
    from torch.profiler import ProfilerActivity, profile

    core.submit(asked)
    for _ in range(20):  # past the prefill
        core.step()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(40):
            core.step()
        torch.cuda.synchronize()
    run(core, [])
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type.name == "CUDA"
    )
    busy, reached = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return float(1 - busy / (reached - spans[0][0]))


def invariance(plan: Plan) -> Part:
    """Log-probability bits of requests alone and among others, by kernels."""
    rows, values = [], {}
    batch = plan.peer_batches[1]
    options = {"num_logprobs": 3, "temperature": 1.0}
    for kernels in plan.kernels:
        with released(plan):
            core = make_core(plan, kernels, batch)
            together = run(core, requests(plan, batch, **options))
            same = 0
            chosen = requests(plan, batch, **options)[:: max(batch // 8, 1)]
            for one in chosen:
                fresh = make_core(plan, kernels, 1)
                same += run(fresh, [one])[one.request_id] == together[one.request_id]
        values[kernels] = same / len(chosen)
        rows.append((kernels, len(chosen), same))
    return Part(("same bits alone and in a batch", "requests", "same"), rows, values)
