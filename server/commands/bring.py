"""The process that brings a name on the hub here: ``python -m server.commands.bring NAME``.

With the id of its parent behind the name, it does not outlive it. What was half brought stays, and
the next one goes on from there.

Its last line on stdout is JSON, with ``path`` or with ``problems``. What people should see
meanwhile goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence

import click

from engine.process import die_with_parent
from server.commands.progress import byte_bar
from server.commands.refusal import EXIT_REFUSED

EXIT_INTERRUPTED = 130


def say(line: str) -> None:
    """Tell people something that is no error."""
    click.echo(line, err=True)


def main(arguments: Sequence[str]) -> int:
    """Entry of the process; the exit code."""
    from weights.hub.errors import HubError
    from weights.hub.names import parse_name
    from weights.kept import keep, kept_root

    text, *parent = arguments
    if parent:
        die_with_parent(int(parent[0]))
    try:
        name = parse_name(text)
        if name is None:
            raise HubError([f"{text} does not exist"])
        path = keep(name, kept_root(os.environ), say, byte_bar)
    except HubError as error:
        return _tell({"problems": error.problems}, EXIT_REFUSED)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _tell({"problems": [f"{error.strerror or error}{where}"]}, EXIT_REFUSED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return _tell({"path": str(path)}, 0)


def _tell(outcome: Mapping[str, object], exit_code: int) -> int:
    click.echo(json.dumps(outcome))
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
