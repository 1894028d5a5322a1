"""What constrained decoding costs: time a token beside free generation, batch by batch in turn.

``python -m bench.constrained [--checkpoint PATH] [--streams 8] [--rounds 9]``. Every kind generates
from the same prompts with as many rows; a row that ends before the others makes a batch smaller, so
the time of a step is compared only over steps with all rows. Prints medians, their ratio to free
generation, and a JSON line.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.report import json_line, table
from engine.core import EngineCore
from engine.local import LocalEngine
from engine.messages import EngineConfig
from engine.request import Request, SamplingParams
from model.grammar import json_grammar, regex_grammar

BUNDLED = Path(__file__).resolve().parents[1] / "weights" / "bundled"
PROMPT_LEN = 16
LINE = {"type": "string", "minLength": 400}
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "people": {
            "type": "array",
            "minItems": 100,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "pattern": "^[A-Z][a-z]{2,9}$"},
                    "age": {"type": "integer", "minimum": 0, "maximum": 130},
                    "mood": {"enum": ["glad", "sad", "neither"]},
                },
                "required": ["name", "age", "mood"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["people"],
    "additionalProperties": False,
}
KINDS: Mapping[str, str] = {
    "free": "",
    "schema": json_grammar(SCHEMA),
    "string": json_grammar(LINE),
    "regex": regex_grammar("([a-zA-Z]{1,12}[ ,.]{1,2})+[0-9]{20}"),
}


def step_s(
    core: EngineCore, first_id: int, prompts: Sequence[tuple[int, ...]], params: SamplingParams
) -> float:
    """Median seconds of a step in which every row drew a token, after the prefill."""
    core.submit(Request(first_id + i, ids, params) for i, ids in enumerate(prompts))
    times: list[float] = []
    while core.has_work:
        started_s = time.perf_counter()
        outputs, stats = core.step()
        if stats.phase == "decode" and len(outputs) == len(prompts):
            times.append(time.perf_counter() - started_s)
    return statistics.median(times)


def measure(
    engine: LocalEngine, num_streams: int, num_tokens: int, rounds: int
) -> dict[str, float]:
    """Medians over rounds, in each of which every kind has its turn."""
    core = engine.core
    if not isinstance(core, EngineCore):
        raise TypeError("only an engine on a CPU follows grammars")
    prompts = [tuple(range(i + 5, i + 5 + PROMPT_LEN)) for i in range(num_streams)]
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for turn in range(rounds + 1):  # the first warms up
        for number, (kind, grammar) in enumerate(KINDS.items()):
            params = SamplingParams(
                max_tokens=num_tokens, seed=turn, ignore_eos=not grammar, grammar=grammar
            )
            first_id = (turn * len(KINDS) + number) * num_streams
            times[kind].append(step_s(core, first_id, prompts, params))
    return {kind: statistics.median(each[1:]) for kind, each in times.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.constrained")
    parser.add_argument("--checkpoint", default=str(BUNDLED))
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    engine = LocalEngine(
        EngineConfig(options.checkpoint, num_slots=options.streams, num_threads=options.threads)
    )
    medians = measure(engine, options.streams, options.tokens, options.rounds)
    rows = [(kind, 1e3 * each, each / medians["free"]) for kind, each in medians.items()]
    print(table(("kind", "step ms", "to free"), rows))
    print(json_line({"streams": options.streams, "dtype": engine.info.dtype, "step_s": medians}))


if __name__ == "__main__":
    main()
