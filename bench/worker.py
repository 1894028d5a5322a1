"""A measured system's own process: ``python -m bench.worker``, told what to do line by line.

While nothing is asked it sleeps in a read, so that no thread pool of one library takes time
from the next. Lines are JSON; what libraries print goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from bench.adapters import Adapter, Setting, Unavailable, load
from engine.errors import EngineFailed
from engine.process import die_with_parent

Answer = dict[str, Any]


def prepare(adapter: Adapter, num_streams: int, total_len: int) -> Answer:
    """Make room."""
    adapter.prepare(num_streams, total_len)
    return {}


def generate(adapter: Adapter, prompts: list[list[int]], num_tokens: int) -> Answer:
    """One measured run."""
    return asdict(adapter.generate(prompts, num_tokens))


def late_arrival(
    adapter: Any, prompts: list[list[int]], late: list[int], num_tokens: int
) -> Answer:
    """Ours only."""
    first_token_s, end_s = adapter.late_arrival(prompts, late, num_tokens)
    return {"first_token_s": first_token_s, "end_s": end_s}


def memory(adapter: Any) -> Answer:
    """Ours only."""
    return {
        "resident_bytes": adapter.resident_bytes(),
        "cache_bytes": adapter.cache_bytes(),
        "info": {"dtype": adapter.info.dtype, "kernels": adapter.info.kernels},
    }


COMMANDS: dict[str, Callable[..., Answer]] = {
    command.__name__: command for command in (prepare, generate, late_arrival, memory)
}


def answers(adapter: Adapter, questions: TextIO, channel: TextIO) -> None:
    """Do what each line asks, until there are no more."""
    for line in questions:
        question = json.loads(line)
        try:
            answer = COMMANDS[question.pop("do")](adapter, **question)
        except Unavailable as error:
            answer = {"refused": str(error)}
        say(channel, answer)


def say(channel: TextIO, answer: Answer) -> None:
    """One line."""
    print(json.dumps(answer), file=channel, flush=True)


def main() -> None:
    """Load, say so or why not, then answer."""
    parser = argparse.ArgumentParser(prog="bench.worker")
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--num-threads", type=int, required=True)
    parser.add_argument("--max-streams", type=int, required=True)
    parser.add_argument("--max-context", type=int)
    parser.add_argument("--parent-pid", type=int, required=True)
    options = vars(parser.parse_args())
    die_with_parent(options.pop("parent_pid"))
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        adapter = load(options.pop("adapter"), Setting(**options))
    except (Unavailable, EngineFailed) as error:
        say(channel, {"refused": str(error)})
        return
    say(channel, {})
    answers(adapter, sys.stdin, channel)


if __name__ == "__main__":
    main()
