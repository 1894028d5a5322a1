"""The paragraphs of a text that was set to a column, as text is written today: in one line each."""

from __future__ import annotations

from itertools import pairwise

_FULL_SHARE = 0.8
"""A line that ends because the column did fills at least this share of it, the word that came next
counted in; printers that justify by hand leave some room."""

_WIDTH_SHARE = 0.9
"""This share of the lines that another one follows is at most as wide as the column."""

_MAX_WIDTH = 100
"""Characters. What is wider has its paragraphs in one line each already."""


def join_lines(text: str) -> str:
    """``text`` with the lines of each paragraph joined by a space.

    A line end is kept before and after an empty line, before a line that stands further to the
    right, and where the next word would have had room: verse, lists and headings stay as they are.
    A dash at the end of a line is joined without a space.
    """
    lines = text.splitlines()
    width = _column_width(lines)
    if width > _MAX_WIDTH:
        return text
    joined = lines[:1]
    for line, following in pairwise(lines):
        if _is_wrapped(line, following, width):
            gap = "" if line.rstrip().endswith("-") else " "
            joined[-1] = joined[-1].rstrip() + gap + following.lstrip()
        else:
            joined.append(following)
    return "\n".join(joined) + "\n" * text.endswith("\n")


def _column_width(lines: list[str]) -> int:
    """Characters of a full line."""
    followed = sorted(len(a.rstrip()) for a, b in pairwise(lines) if a.strip() and b.strip())
    return followed[int(len(followed) * _WIDTH_SHARE)] if followed else 0


def _is_wrapped(line: str, following: str, width: int) -> bool:
    """Whether ``line`` ends only because the column does."""
    if not line.strip() or not following.strip() or _indent(following) > _indent(line):
        return False
    needed = len(line.rstrip()) + 1 + len(following.split(maxsplit=1)[0])
    return needed >= _FULL_SHARE * width


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
