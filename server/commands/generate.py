"""gpt2-server generate: prompts continued in this process, without a server."""

from __future__ import annotations

import secrets
import sys
from typing import TYPE_CHECKING

import click

from server.commands.locate import locate
from server.commands.refusal import refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.local import LocalEngine
    from engine.request import SamplingParams
    from model.tokenizer import Tokenizer


@click.command("generate")
@click.argument("prompts", nargs=-1)
@click.option("--checkpoint", help="A folder or a name on the hub.  [default: the bundled one]")
@click.option("--max-tokens", type=click.IntRange(1), default=64, show_default=True)
@click.option("--temperature", type=click.FloatRange(0, 100), default=1.0, show_default=True)
@click.option("--top-k", type=click.IntRange(0), default=40, show_default=True, help="0 is off.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**53 - 1), help="[default: drawn]")
@click.option("-n", "num_choices", type=click.IntRange(1), default=1, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--dtype", default="auto", show_default=True, help="auto, float32, bfloat16, int8 or int4."
)
def command(
    prompts: tuple[str, ...],
    checkpoint: str | None,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int | None,
    num_choices: int,
    device: str,
    dtype: str,
) -> None:
    """Continue each of PROMPTS, or the lines of standard input; "" is an unconditional sample."""
    from engine.errors import EngineFailed, RequestRejected
    from engine.local import LocalEngine
    from engine.messages import EngineConfig
    from engine.request import SamplingParams
    from model.tokenizer import Tokenizer, TokenizerError
    from server.settings import bundled_checkpoint

    path = bundled_checkpoint() if checkpoint is None else locate(checkpoint).path
    texts = prompts or tuple(sys.stdin.read().splitlines())
    params = SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=secrets.randbelow(2**53) if seed is None else seed,
    )
    try:
        engine = LocalEngine(EngineConfig(checkpoint=str(path), device=device, dtype=dtype))
        tokenizer = Tokenizer.from_directory(path)
        answers = continue_texts(engine, tokenizer, texts, params, num_choices)
    except (EngineFailed, TokenizerError) as error:
        refuse(error.problems)
    except (RequestRejected, ValueError) as error:
        refuse([str(error)])
    for text, answer in answers:
        click.echo(text + answer)


def continue_texts(
    engine: LocalEngine,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    params: SamplingParams,
    num_choices: int,
) -> list[tuple[str, str]]:
    """(text, continuation) for each choice of each text, in order. Raises RequestRejected."""
    import msgspec

    context_len, eos_ids = engine.info.context_len, engine.info.eos_token_ids
    items, sources = [], []
    for text in texts:
        ids = tokenizer.encode(text) or list(eos_ids[:1])
        max_tokens = max(1, min(params.max_tokens, context_len + 1 - len(ids)))
        for index in range(num_choices):
            own = msgspec.structs.replace(params, max_tokens=max_tokens, choice_index=index)
            items.append((ids, own))
            # Words come back lower-cased and spaced out: the prompt too, so that both fit together.
            sources.append(tokenizer.decode(ids) if tokenizer.is_of_words else text)
    results = engine.generate(items)
    return [
        (text, tokenizer.decode([i for i in result.token_ids if i not in eos_ids]))
        for text, result in zip(sources, results, strict=True)
    ]
