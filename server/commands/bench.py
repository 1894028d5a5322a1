"""gpt2-server bench: the bare engine, the peers beside it, a server under load and in trouble."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from model.config import PRESETS
from server.commands.locate import locate
from server.commands.refusal import refuse

_FOLDER = click.Path(path_type=Path, file_okay=False)
_COUNT = click.IntRange(1)


def shape_options(command: Any) -> Any:
    """What offline and peers have in common."""
    for option in (
        click.option("--plots", type=_FOLDER, help="Draw PNG files into this folder."),
        click.option("--threads", "num_threads", type=_COUNT, default=2, show_default=True),
        click.option("--rounds", type=_COUNT, default=5, show_default=True, help="Counted ones."),
        click.option("--num-tokens", type=click.IntRange(2), help="New ones.  [default: 48, 32]"),
        click.option("--prompt-len", type=_COUNT, default=128, show_default=True),
        click.option("--prefill", "prefills", type=_COUNT, multiple=True, help="[512, 960]"),
        click.option("--streams", type=_COUNT, multiple=True, help="[1, 8, 32, 64]"),
        click.option("--dtype", "dtypes", multiple=True, help="Ours; again for more.  [all]"),
        click.option("--checkpoint", help="A folder or a name on the hub, not random weights."),
        click.option(
            "--size",
            type=click.Choice(["tiny", *PRESETS]),
            default="gpt2",
            show_default=True,
            help="Of random weights.",
        ),
    ):
        command = option(command)
    return command


@click.group("bench")
def command() -> None:
    """Measure: a table for people, and one JSON line at the end."""


@command.command("offline")
@shape_options
@click.option("--late-streams", type=_COUNT, help="Running when one more comes.  [default: 32]")
def offline(**options: Any) -> None:
    """The bare engine, dtype beside dtype."""
    with refusals():
        from bench.offline import OfflineOptions, run

        run(OfflineOptions(**given(options)), say)


@command.command("peers")
@shape_options
@click.option(
    "--peer",
    "peers",
    type=click.Choice(["transformers", "CTranslate2", "llama.cpp"], case_sensitive=False),
    multiple=True,
    help="Again for more.  [all]",
)
@click.option("--all-rounds", is_flag=True, help="Also of who is far behind in a first one.")
def peers(all_rounds: bool, **options: Any) -> None:
    """Ours against transformers, CTranslate2 and llama.cpp, on the same weights, in turn."""
    with refusals():
        from bench.peers import PeersOptions, run

        run(PeersOptions(**given(options), is_screening=not all_rounds), say)


@command.command("serving")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True)
@click.option("--rate", "rates", type=click.FloatRange(0, min_open=True), multiple=True)
@click.option("--concurrency", "concurrencies", type=_COUNT, multiple=True, help="[8]")
@click.option("--num-requests", type=_COUNT, help="Instead of a duration.")
@click.option("--duration-s", type=click.FloatRange(0, min_open=True), help="[default: 30]")
@click.option("--prompt-len", type=_COUNT, help="Tokens.  [default: 128]")
@click.option("--num-tokens", type=_COUNT, help="New tokens.  [default: 64]")
@click.option("--max-token-id", type=_COUNT, help="Prompts are ids below it.  [default: 8000]")
@click.option("--plain", "is_plain", is_flag=True, help="Whole answers instead of streams.")
@click.option("--model", help="[default: the first that the server names]")
@click.option("--token", envvar="OPENAI_API_KEY", help="Sent as a bearer token.")
@click.option("--seed", type=int, help="Of prompts and arrivals.  [default: 0]")
@click.option("--timeout-s", type=click.FloatRange(0, min_open=True), help="[default: 300]")
@click.option("--plots", type=_FOLDER, help="Draw PNG files into this folder.")
def serving(**options: Any) -> None:
    """A running server: ours, vLLM, llama-server, any with /v1/completions.

    --rate sends so many requests a second at random times, whatever the server does;
    --concurrency keeps so many running. Either again for more loads.
    """
    with refusals():
        from bench.serving import ServerUnknown, ServingOptions, run

        chosen = given(options)
        if "rates" not in chosen:
            chosen.setdefault("concurrencies", (8,))
        try:
            run(ServingOptions(**chosen), say)
        except (ServerUnknown, ValueError) as error:
            refuse([str(error)])


@command.command("trouble")
@click.argument("names", nargs=-1)
@click.option("--short", "is_short", is_flag=True, help="Less of each, for every change.")
@click.option("--soak-minutes", type=click.FloatRange(1), default=10.0, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path, dir_okay=False))
def trouble(names: tuple[str, ...], is_short: bool, soak_minutes: float, path: Path | None) -> None:
    """Servers of our own in trouble: overload, clients that leave, kills, a long load.

    NAMES are overload, leaving, slow-readers, engine-faults, hostile, soak; without any, all.
    The exit code is 1 if a promise was broken.
    """
    with refusals():
        from bench.trouble.promise import Extent
        from bench.trouble.run import TROUBLES, run

        if unknown := [name for name in names if name not in TROUBLES]:
            refuse([f"not a trouble: {', '.join(unknown)}; there are {', '.join(TROUBLES)}"])
        soak_s = 60 * soak_minutes
        extent = Extent.short(soak_s) if is_short else Extent(soak_s=soak_s)
        if not run(names, extent, path, say):
            raise SystemExit(1)


@contextmanager
def refusals() -> Iterator[None]:
    """Says which extra is missing, and what is wrong with a checkpoint.

    A SIGTERM ends a bench as Ctrl-C does, so that its folder of weights does not stay behind.
    """
    from weights.stored import CheckpointError

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except CheckpointError as error:
        refuse(error.problems)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "bench":
            refuse(["bench is not part of this installation: run it from the project's folder"])
        extra = "which the extra bench brings: pip install 'gpt2-server[bench]'"
        refuse([f"bench needs {error.name}, {extra}"])
    except OSError as error:
        refuse([f"{error.strerror or error}: {error.filename or 'bench'}"])
    finally:
        signal.signal(signal.SIGTERM, before)


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Only what was asked for: the defaults are those of the benches."""
    chosen = {name: value for name, value in options.items() if value not in (None, ())}
    if "checkpoint" in chosen:
        chosen["checkpoint"] = locate(chosen["checkpoint"]).path
    return chosen


def say(text: str) -> None:
    """Progress, on stderr."""
    click.echo(text, err=True)
