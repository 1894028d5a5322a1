"""How a command says no: every problem a line on stderr, exit code 2."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

import click

EXIT_REFUSED = 2


def print_problems(problems: Iterable[str]) -> None:
    """Each on a line of its own."""
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)


def refuse(problems: Iterable[str]) -> NoReturn:
    """Print the problems and exit with code 2."""
    print_problems(problems)
    raise click.exceptions.Exit(EXIT_REFUSED)
