"""Words that were cut apart, as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.evaluation.detokenise import childrens_book, lambada, penn_treebank, wikitext

WIKITEXT = [
    (" = Robert Boulter = \n", "= Robert Boulter =\n"),
    (" = = = 2000 \u2013 2005 = = = \n", "=== 2000 \u2013 2005 ===\n"),
    (" a guest @-@ starring role . \n", "a guest-starring role.\n"),
    (" 1 @,@ 000 , or 2 @.@ 5 % ; \n", "1,000, or 2.5%;\n"),
    (' as " Craig " in " The " . \n', 'as "Craig" in "The".\n'),
    (" ( sic ) [ 1 ] costs $ 5 \n", "(sic) [1] costs $5\n"),
    (" Teddy 's , do n't , we 've , ships ' hulls \n", "Teddy's, don't, we've, ships' hulls\n"),
    (" the <unk> of \n \n x = y \n", "the <unk> of\n\nx = y\n"),
]


@pytest.mark.parametrize(("text", "expected"), WIKITEXT)
def test_wikitext(text: str, expected: str) -> None:
    assert wikitext(text) == expected


def test_lines_of_wikitext_keep_apart(shared_data: Path) -> None:
    """Nothing is lost that would have told two lines apart, and no line is."""
    text = (shared_data / "lm" / "wikitext2" / "wiki.test.raw").read_bytes().decode()
    before = [line.strip(" ") for line in text.split("\n")]
    after = wikitext(text).split("\n")
    assert len(before) == len(after)
    assert len(set(before)) == len(set(after))
    assert "@-@" not in wikitext(text)


def test_penn_treebank() -> None:
    text = " no it was n't black monday \n the company 's $ N million <unk> & co. \n"
    expected = "no it wasn't black monday\nthe company's $N million <unk> & co.\n"
    assert penn_treebank(text) == expected


def test_childrens_book() -> None:
    text = "`` You ca n't , '' said Tom -LRB- the cat -RRB- ."
    assert childrens_book(text) == '"You can\'t," said Tom (the cat).'


def test_lambada() -> None:
    assert lambada(" \u201cYes,\u201d he said \n") == '\n"Yes," he said'
