"""What a Dockerfile and a .dockerignore say, read as an engine reads them; as much as ours need."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Instruction:
    """``RUN``, ``COPY`` and the like, and all that follows the word."""

    name: str
    rest: str

    def exec_form(self) -> list[str]:
        """The command of an instruction that is run without a shell. Raises ValueError."""
        words = json.loads(re.sub(r"^(--\S+\s+)*(CMD\s+)?", "", self.rest))
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(self.rest)
        return words


Stage = list[Instruction]


def read_stages(text: str) -> list[Stage]:
    """Instructions by stage; those before the first FROM are the first one's."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stages: list[Stage] = [[]]
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM" and any(said.name == "FROM" for said in stages[-1]):
            stages.append([])
        stages[-1].append(Instruction(name, rest.strip()))
    return stages


def said(stage: Stage, name: str) -> list[Instruction]:
    """The instructions of one name."""
    return [instruction for instruction in stage if instruction.name == name]


def is_ignored(path: str, patterns: Sequence[str]) -> bool:
    """Whether ``path`` is left out of the build context: the last line that matches decides."""
    path_and_parents = [path, *map(str, PurePosixPath(path).parents)]
    ignored = False
    for pattern in patterns:
        regex = re.compile(as_regex(pattern.removeprefix("!")))
        if any(regex.fullmatch(each) for each in path_and_parents):
            ignored = not pattern.startswith("!")
    return ignored


def as_regex(pattern: str) -> str:
    """``**/`` is any number of folders, ``*`` stays in one."""
    special = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.strip("/"))
    return "".join(special.get(part, re.escape(part)) for part in parts)


def read_patterns(text: str) -> list[str]:
    """The lines of a .dockerignore that say something."""
    lines = map(str.strip, text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
