"""A checkpoint as people write it, a path or a name on the hub, -> a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from server.commands.refusal import EXIT_REFUSED, refuse

INTERRUPTED = "interrupted: the same command goes on with the download where it stopped"


@dataclass(frozen=True)
class Located:
    """Where a checkpoint lies, and the repository that it is from, if it is from one."""

    path: Path
    repo: str | None = None


def hub_name(text: str, revision: str | None) -> tuple[str, str] | None:
    """The repository and the revision that ``text`` names.

    None where something lies there, or it cannot be a name. Refuses a revision of what has none.
    """
    from weights.hub.errors import HubError
    from weights.hub.names import parse_name

    if os.path.lexists(text):
        if revision is not None:
            refuse([f"--revision {revision}: {text} lies here, only names on the hub have any"])
        return None
    try:
        name = parse_name(text, revision)
    except HubError as error:
        refuse(error.problems)
    if name is None and revision is not None:
        refuse([f"{text} does not exist"])
    return (name.repo, name.revision) if name is not None else None


def locate(text: str, revision: str | None = None) -> Located:
    """The folder of ``text``. A name's is downloaded and converted now, if it never was.

    That is done by a process of its own, which takes torch and all else along when it ends.
    Refuses what cannot be brought here. What cannot be a name is returned as it is: whoever
    opens it says that it does not exist.
    """
    name = hub_name(text, revision)
    if name is None:
        return Located(Path(text))
    return Located(_kept(*name), name[0])


def _kept(repo: str, revision: str) -> Path:
    from engine.child import child_environment, describe_exit

    # -P: a folder named "server" where the user happens to stand is not ours
    command = [sys.executable, "-P", "-m", "server.commands.bring", f"{repo}@{revision}"]
    command.append(str(os.getpid()))  # which it is not to outlive
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        child = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=child_environment(),
            check=False,
        )
    except KeyboardInterrupt:
        refuse([INTERRUPTED])
    finally:
        signal.signal(signal.SIGTERM, before)
    if child.returncode not in {0, EXIT_REFUSED}:
        refuse([f"{repo} is not here: its download {describe_exit(child.returncode)}"])
    outcome = json.loads(child.stdout.splitlines()[-1])
    if "problems" in outcome:
        refuse(outcome["problems"])
    return Path(outcome["path"])
