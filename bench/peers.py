"""Ours and transformers side by side, alternated in one run, on the same random weights.

``python -m bench.peers [--dtype float32 bfloat16] [--size gpt2] [--rounds 5]`` prints one table
for people and one JSON line for scripts: medians, and the ratio ours / theirs. Both run in this
process, with the same number of threads, greedy, to the same number of tokens.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import transformers

from engine.core import EngineCore
from engine.loader import build_core
from engine.messages import EngineConfig
from engine.request import Request, SamplingParams
from model.config import PRESETS, GPTConfig
from model.decoder import parameter_shapes


@dataclass(frozen=True, slots=True)
class Scenario:
    """``num_streams`` prompts of ``prompt_len`` random tokens, ``num_tokens`` new ones each."""

    name: str
    num_streams: int
    prompt_len: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over the rounds, in tokens per second, and the ratio of the medians."""

    dtype: str
    scenario: str
    ours: float
    transformers: float
    ratio: float


SCENARIOS = (
    Scenario("one stream", 1, 128, 64),
    Scenario("32 at once", 32, 128, 32),
    Scenario("prefill of 512", 1, 512, 1),
)


def random_tensors(config: GPTConfig) -> dict[str, torch.Tensor]:
    """Random weights of the true shapes, gains and biases too; never zeros."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in parameter_shapes(config).items():
        tensor = torch.randn(shape, generator=generator) * 0.02
        tensors[name] = tensor + 1 if "ln_" in name and name.endswith("weight") else tensor
    return tensors


def transformers_model(
    config: GPTConfig, tensors: dict[str, torch.Tensor], dtype: torch.dtype
) -> transformers.GPT2LMHeadModel:
    """The same weights in transformers' own network."""
    peer = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.num_positions,
            n_embd=config.num_channels,
            n_layer=config.num_layers,
            n_head=config.num_heads,
        )
    )
    state = {}
    for name, tensor in tensors.items():
        is_matrix = ".c_" in name and name.endswith("weight")
        state["transformer." + name] = tensor.T.contiguous() if is_matrix else tensor
    state["lm_head.weight"] = state["transformer.wte.weight"]
    peer.load_state_dict(state)
    return peer.to(dtype).eval()


def prompts(scenario: Scenario, vocab_size: int, seed: int) -> list[list[int]]:
    """Random prompts, other ones for every seed, so that no prefix is ever known."""
    draw = random.Random(seed)
    return [
        [draw.randrange(vocab_size) for _ in range(scenario.prompt_len)]
        for _ in range(scenario.num_streams)
    ]


def run_ours(
    core: EngineCore, ids: Iterator[int], scenario: Scenario, batch: Sequence[Sequence[int]]
) -> int:
    """Generate with the bare engine; the number of tokens."""
    params = SamplingParams(max_tokens=scenario.num_tokens, temperature=0, ignore_eos=True)
    core.submit([Request(next(ids), tuple(prompt), params) for prompt in batch])
    count = 0
    while core.has_work:
        count += sum(len(output.token_ids) for output in core.step()[0])
    return count


@torch.inference_mode()
def run_transformers(
    peer: transformers.GPT2LMHeadModel, scenario: Scenario, batch: Sequence[Sequence[int]]
) -> int:
    """Generate with one static batch of ``generate``; the number of tokens."""
    ids = torch.tensor(batch)
    out = peer.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=scenario.num_tokens,
        min_new_tokens=scenario.num_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return int(out.shape[1] - ids.shape[1]) * len(batch)


def rate(run: Callable[[], int]) -> float:
    """Tokens per second of one run."""
    started_s = time.perf_counter()
    count = run()
    return count / (time.perf_counter() - started_s)


@dataclass(frozen=True, slots=True)
class LateArrival:
    """A request that comes while 32 run. Seconds from its arrival."""

    dtype: str
    first_token_s: float
    others_finished_s: float


def late_arrival(core: EngineCore, ids: Iterator[int], dtype: str, vocab_size: int) -> LateArrival:
    """Submit one more prompt once 32 others decode; when it speaks, and when they end."""
    running = Scenario("running", 32, 128, 64)
    params = SamplingParams(max_tokens=running.num_tokens, temperature=0, ignore_eos=True)
    batch = prompts(running, vocab_size, seed=99)
    core.submit([Request(next(ids), tuple(prompt), params) for prompt in batch])
    while core.step()[1].phase != "decode":
        pass
    late_id, first_token_s = next(ids), 0.0
    late_prompt = prompts(Scenario("late", 1, 128, 1), vocab_size, seed=100)[0]
    core.submit([Request(late_id, tuple(late_prompt), SamplingParams(max_tokens=1))])
    started_s = time.perf_counter()
    while core.has_work:
        if any(output.request_id == late_id for output in core.step()[0]):
            first_token_s = time.perf_counter() - started_s
    return LateArrival(dtype, first_token_s, time.perf_counter() - started_s)


def compare(config: GPTConfig, dtype_name: str, rounds: int) -> tuple[list[Result], LateArrival]:
    """Every scenario, ours and theirs in turn, after one uncounted round."""
    tensors = random_tensors(config)
    core, _ = build_core(
        config, tensors, EngineConfig("random", dtype=dtype_name, num_slots=33), "random", "random"
    )
    peer = transformers_model(config, tensors, getattr(torch, dtype_name))
    ids = iter(range(10**9))
    results = []
    for scenario in SCENARIOS:
        ours, theirs = [], []
        for seed in range(rounds + 1):
            batch = prompts(scenario, config.vocab_size, seed)
            ours.append(rate(partial(run_ours, core, ids, scenario, batch)))
            theirs.append(rate(partial(run_transformers, peer, scenario, batch)))
        our_median, their_median = statistics.median(ours[1:]), statistics.median(theirs[1:])
        results.append(
            Result(dtype_name, scenario.name, our_median, their_median, our_median / their_median)
        )
    return results, late_arrival(core, ids, dtype_name, config.vocab_size)


def processor() -> str:
    """The processor's name, as the system tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--size", choices=sorted(PRESETS), default="gpt2")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    size = PRESETS[options.size]
    compared = [compare(size, dtype, options.rounds) for dtype in options.dtype]
    results = [result for some, _ in compared for result in some]
    print(f"{options.size}, {torch.get_num_threads()} threads of {processor()}, tokens/s")
    print(f"{'dtype':<10}{'scenario':<16}{'ours':>10}{'transformers':>14}{'ratio':>8}")
    for r in results:
        print(f"{r.dtype:<10}{r.scenario:<16}{r.ours:>10.1f}{r.transformers:>14.1f}{r.ratio:>8.2f}")
    for _, late in compared:
        print(
            f"{late.dtype}: a request arriving while 32 run has its first token after "
            f"{late.first_token_s:.2f} s; they finish after {late.others_finished_s:.2f} s"
        )
    late_values = [asdict(late) for _, late in compared]
    print(json.dumps({"results": [asdict(r) for r in results], "late": late_values}))


if __name__ == "__main__":
    main()
