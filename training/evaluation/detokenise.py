"""Corpora that were cut into words, as people write them (GPT-2 paper, section 3.1).

WikiText and the Penn Treebank have spaces around punctuation, ``@-@`` for a hyphen, ``do n't`` for
don't: text that a model of the web has hardly seen. These bring it near to what it was. Of the test
split of WikiText-2 no two lines become the same, so the result's probability is the corpus's; an
inverse would need to know which abbreviations end in a full stop. The rules are ours: the paper
does not give its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Detokeniser = Callable[[str], str]
Rules = Sequence[tuple[re.Pattern[str], str]]


def _rules(*pairs: tuple[str, str]) -> Rules:
    return [(re.compile(pattern, re.MULTILINE), by) for pattern, by in pairs]


_PUNCTUATION = _rules(
    (r" (?=[,.;:!?%)\]])", ""),
    (r"(?<=[(\[$£€¥₱]) ", ""),
    (r" (?=n't\b)", ""),
    (r" (?='(?:s|t|m|d|ll|re|ve)\b)", ""),
    (r" (?='(?: |$))", ""),  # the ships ' hulls
    (r'" ([^"\n]*) "', r'"\1"'),
)
_WIKITEXT = _rules(
    (r" @([-,.])@ ", r"\1"),
    (r"^ | $", ""),
    (r"(?<==) (?==)|^ (?==)|(?<==) $", ""),
)
_BOOK = _rules(
    (r"`` ?| ?''", '"'),
    (r"-L[RC]B- ?", "("),
    (r" ?-R[RC]B-", ")"),
)
_TREEBANK = _rules((r"^ | $", ""), (r"(?<=[$#]) (?=N\b)", ""))


def _applied(text: str, rules: Rules) -> str:
    for pattern, by in rules:
        text = pattern.sub(by, text)
    return text


def wikitext(text: str) -> str:
    """WikiText-2 and WikiText-103, raw or with ``<unk>``, which stays."""
    return _applied(_applied(text, _WIKITEXT), _PUNCTUATION)


def penn_treebank(text: str) -> str:
    """Mikolov's Penn Treebank; it has lost its punctuation, and ``<unk>`` and ``N`` stay."""
    return _applied(_applied(text, _TREEBANK), _PUNCTUATION)


def childrens_book(text: str) -> str:
    """The Children's Book Test, with the Treebank's quotes and brackets."""
    return _applied(_applied(text, _BOOK), _PUNCTUATION)


def lambada(text: str) -> str:
    """As the authors of GPT-2 gave it to their models (openai/gpt-2#131)."""
    return "\n" + text.strip().replace("\u201c", '"').replace("\u201d", '"')
