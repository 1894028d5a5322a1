"""The server on the card: from start to first token, idle latency, and what reaches clients."""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.client import Address, Outcome, complete
from bench.gpu.plan import Part, Plan
from bench.gpu.vocabulary import write_vocabulary
from bench.load import closed_loop
from bench.shapes import random_tensors
from weights.checkpoint import save_checkpoint

IDLE_PROMPT_LEN = 128
NUM_IDLE = 20
TIMEOUT_S = 120.0

FIRST_ANSWER = """
import sys, time
started = time.perf_counter()
from engine.local import LocalEngine
from engine.messages import EngineConfig
from engine.request import SamplingParams
engine = LocalEngine(EngineConfig(checkpoint=sys.argv[1], device=sys.argv[2], num_slots=64))
engine.generate([((1, 2, 3), SamplingParams(max_tokens=1))])
print(time.perf_counter() - started)
"""


def checkpoint(plan: Plan) -> Path:
    """Random weights of the main size with a made-up vocabulary; a tiny one has 300 ids."""
    folder = plan.scratch / "served"
    if not folder.exists():
        config = plan.main_config
        config = replace(config, vocab_size=max(config.vocab_size, 300))
        vocabulary = write_vocabulary(plan.scratch / "vocabulary", config.vocab_size)
        tensors = random_tensors(config)
        save_checkpoint(folder, config, tensors, vocabulary, {"origin": "random"})
    return folder


def first_token(plan: Plan) -> Part:
    """A new process up to its first token: with no kernel compiled before, and again."""
    rows = []
    cache = {"TRITON_CACHE_DIR": str(plan.scratch / "kernels")}
    for name in ("cold", "kernels cached"):
        command = [sys.executable, "-c", FIRST_ANSWER, str(checkpoint(plan)), plan.device.type]
        started_s = time.perf_counter()
        done = subprocess.run(
            command, env={**os.environ, **cache}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        rows.append((name, time.perf_counter() - started_s, float(done.stdout.split()[-1])))
    values = {name: whole_s for name, whole_s, _ in rows}
    return Part(("start to first token", "s", "of which Python sees"), rows, values)


@contextmanager
def server(plan: Plan) -> Iterator[Address]:
    """``gpt2-server serve`` on a free port. Raises RuntimeError where it does not start."""
    code = "from server.cli import main; main()"
    options = ("--port", "0", "--device", plan.device.type, "--slots", str(plan.peer_batches[-1]))
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", *options, str(checkpoint(plan))],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Address.of(_url(process))
    finally:
        process.terminate()
        process.communicate()


def _url(process: subprocess.Popen[str]) -> str:
    for line in process.stdout or ():
        if found := re.search(r"http://\S+", line):
            return found[0]
    raise RuntimeError(f"the server ended with exit code {process.wait()}")


def http(plan: Plan, ours: dict[int, float]) -> Part:
    """Time to first token idle, and tokens a second at each batch as a share of the engine's."""
    rows: list[tuple[object, ...]] = []
    values: dict[str, Any] = {}
    with server(plan) as address:
        outcomes = [asyncio.run(_ask(plan, address, i, 4)) for i in range(NUM_IDLE)]
        first_s = statistics.median(o.event_s[0] - o.started_s for o in outcomes[2:])
        values["idle_first_token_s"] = first_s
        rows.append(("first token, idle, ms", 1e3 * first_s, None, None))
        for batch in plan.peer_batches:
            rate, gap_s = asyncio.run(_load(plan, address, batch))
            share = rate / ours[batch] if batch in ours else None
            values[f"B={batch}"] = {"rate": rate, "share": share, "gap_p99_s": gap_s}
            rows.append((f"B={batch}, tokens/s", rate, share, 1e3 * gap_s))
    return Part(("over HTTP", "", "of the engine's", "gap p99 ms"), rows, values)


async def _ask(plan: Plan, address: Address, index: int, num_new: int) -> Outcome:
    """A stream. Raises RuntimeError for one that fails."""
    length = min(IDLE_PROMPT_LEN, plan.prompt_len)
    body = {
        "prompt": [(3 * index + 5 * j) % 256 for j in range(length)],
        "max_tokens": num_new,
        "seed": index,
        "stream": True,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    outcome = await complete(address, body, timeout_s=TIMEOUT_S)
    if outcome.error:
        raise RuntimeError(f"a request failed: {outcome.error}")
    return outcome


async def _load(plan: Plan, address: Address, batch: int) -> tuple[float, float]:
    """Tokens a second of ``batch`` streams at once, and the 99th percentile of their gaps."""

    async def send(index: int) -> Outcome:
        return await _ask(plan, address, index, plan.num_new)

    started_s = time.perf_counter()
    outcomes = await closed_loop(send, batch, 2 * batch, TIMEOUT_S)
    elapsed_s = time.perf_counter() - started_s
    gaps = sorted(
        b - a
        for outcome in outcomes
        for a, b in zip(outcome.event_s, outcome.event_s[1:], strict=False)
    )
    gap_s = gaps[int(0.99 * (len(gaps) - 1))] if gaps else 0.0
    return sum(outcome.tokens for outcome in outcomes) / elapsed_s, gap_s
