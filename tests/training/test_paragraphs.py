"""Which line ends are those of a column, and which ones somebody meant."""

from __future__ import annotations

import textwrap

from training.paragraphs import join_lines

PARAGRAPH = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, "
    "must be in want of a wife. However little known the feelings or views of such a man may be "
    "on his first entering a neighbourhood, this truth is so well fixed in the minds of the "
    "surrounding families, that he is considered the rightful property of some one of them."
)

COLUMN = textwrap.fill(PARAGRAPH, 60)

VERSE = "We all are here\nIn perfect health,\nNone gone from here\nBy death or stealth."


def test_a_paragraph_is_one_line() -> None:
    assert COLUMN.count("\n") == 5
    assert join_lines(COLUMN) == PARAGRAPH
    assert join_lines(f"{COLUMN}\n\n{COLUMN}\n") == f"{PARAGRAPH}\n\n{PARAGRAPH}\n"


def test_verse_headings_and_lists_stay() -> None:
    text = f"CHAPTER I\nThe Wife\n\n{{}}\n\n{VERSE}\n\n\n{{}}\n"
    assert join_lines(text.format(COLUMN, COLUMN)) == text.format(PARAGRAPH, PARAGRAPH)


def test_what_stands_further_right_is_something_else() -> None:
    letter = textwrap.indent(textwrap.fill(PARAGRAPH, 56), "    ")
    assert join_lines(f"{COLUMN}\n{letter}\n") == f"{PARAGRAPH}\n    {PARAGRAPH}\n"


def test_a_first_line_may_be_set_in() -> None:
    text = textwrap.fill(PARAGRAPH, 60, initial_indent="   ")
    assert join_lines(text) == f"   {PARAGRAPH}"


def test_a_dash_at_the_end_joins_without_a_space() -> None:
    first, second = ("word " * 11 + "yes--", "no " * 19 + "no")
    assert join_lines(f"{first}\n{second}") == f"{first}{second}"


def test_carriage_returns_go_with_the_line_ends() -> None:
    assert join_lines(COLUMN.replace("\n", "\r\n")) == PARAGRAPH


def test_lines_that_are_paragraphs_already_stay() -> None:
    """A dictionary has an entry in each line, of any length; none of them is a column's."""
    text = "\n".join("x" * length for length in range(60, 260, 3)) + "\n"
    assert join_lines(text) == text
    assert join_lines("") == ""
