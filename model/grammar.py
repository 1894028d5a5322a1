"""Grammars: what a text may look like, as a mask over the vocabulary for each next token.

llguidance does the work, and is known here only: it walks the vocabulary as a trie of bytes beside
an Earley parser over a lexer, so a mask takes microseconds. Imports no torch: the API process
checks with this module what the engine process then follows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

NUM_KEPT = 32
"""Grammars that stay compiled: n choices, and requests like those before, compile once."""

MAX_ERROR_LEN = 200
_PROBE = '{"Aa": [1, "\\u00e9 "]}'

# Whatever these bound ends as an error of the matcher, never as a long wait.
_LIMITS = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_items_in_row": 2_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 100_000,
}


class GrammarError(Exception):
    """A grammar that cannot be followed. ``str()`` is one line for people."""


class Spelling(Protocol):
    """What is used of ``model.tokenizer.Tokenizer``."""

    @property
    def vocab_size(self) -> int:
        """Highest id + 1."""

    def encode(self, text: str) -> list[int]:
        """Text to ids."""

    def token_bytes(self, token_id: int, /) -> bytes:
        """The bytes of one token. Raises KeyError."""


def json_grammar(schema: Mapping[str, Any]) -> str:
    """JSON that a schema describes, spaced as Python's ``json.dumps`` does.

    Without free white space: a small model would write blank lines until its tokens run out.
    Raises GrammarError for what is no JSON, a lone surrogate for one.
    """
    spacing: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    try:
        return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=spacing)
    except ValueError as error:
        raise GrammarError(f"not a schema: {_one_line(str(error))}") from None


def regex_grammar(regex: str) -> str:
    """Texts that a regular expression matches from end to end."""
    return LLMatcher.grammar_from_regex(regex)


def choice_grammar(choices: Sequence[str]) -> str:
    """One of these texts, whole."""
    return regex_grammar("|".join(map(_literal, choices)))


def _literal(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)


class Matcher:
    """How far one text has come in its grammar. Owned by one sequence.

    ``allowed``: the tokens that may follow, one bit each, the lowest bit of the first byte being
    id 0; None where everything may. ``is_complete``: nothing may follow but the end.
    ``is_failed``: the grammar outgrew its limits on the way, and is followed no longer.
    """

    def __init__(self, inner: LLMatcher, eos_bits: int, vocab_size: int) -> None:
        self._inner = inner
        self._eos_bits = eos_bits
        self._vocab_bits = (1 << vocab_size) - 1
        self.allowed: bytes | None = None
        self.is_complete = False
        self.is_failed = False
        self._look()

    def take(self, token_id: int) -> None:
        """The text goes on with this token."""
        self._inner.consume_token(token_id)
        self._look()

    def without(self, banned_ids: Sequence[int]) -> bytes | None:
        """``allowed`` less these; the whole of it where nothing else would be left."""
        if self.allowed is None or not banned_ids:
            return self.allowed
        banned = sum(1 << token_id for token_id in set(banned_ids))
        left = int.from_bytes(self.allowed, "little") & ~banned
        return left.to_bytes(len(self.allowed), "little") if left else self.allowed

    def _look(self) -> None:
        mask = b"" if self._inner.is_error() else self._inner.compute_bitmask()
        bits = int.from_bytes(mask, "little") & self._vocab_bits
        self.is_failed = self._inner.is_error()
        self.is_complete = not self.is_failed and not bits & ~self._eos_bits
        self.allowed = bits.to_bytes(len(mask), "little") if bits and not self.is_failed else None


class Grammars:
    """Compiles grammars for one vocabulary. Safe to share by threads.

    ``vocab_size`` is the model's. Raises GrammarError where texts do not come back from their ids,
    as with the words of the first GPT.
    """

    def __init__(
        self, spelling: Spelling, vocab_size: int, eos_token_ids: Sequence[int] = ()
    ) -> None:
        self._vocab_size = vocab_size
        self._eos_bits = sum(1 << token_id for token_id in set(eos_token_ids))
        self._words = _Words(spelling, vocab_size, eos_token_ids)
        # One id too many stands for the end where the model has none; it is never drawn.
        ends = list(eos_token_ids) or [vocab_size]
        self._trie = LLTokenizer(TokenizerWrapper(self._words), vocab_size + 1, ends)
        self._limits = LLParserLimits(**_LIMITS, verbose_errors=False)  # type: ignore[arg-type]
        self._compiled = lru_cache(NUM_KEPT)(self._compile)

    def matcher(self, grammar: str) -> Matcher:
        """The beginning of ``grammar``. Raises GrammarError."""
        inner = self._compiled(grammar).deep_copy()
        matcher = Matcher(inner, self._eos_bits, self._vocab_size)
        if matcher.is_failed:
            raise GrammarError(_reason(inner))
        return matcher

    def _compile(self, grammar: str) -> LLMatcher:
        inner = LLMatcher(self._trie, grammar, log_level=0, limits=self._limits)
        if inner.is_error():
            raise GrammarError(_reason(inner))
        return inner


class _Words:
    """A vocabulary as llguidance asks for one."""

    bos_token_id = None

    def __init__(self, spelling: Spelling, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._spelling = spelling
        self._ends = frozenset(eos_token_ids)
        if self._spelled(spelling.encode(_PROBE)) != _PROBE.encode():
            raise GrammarError("needs a vocabulary that spells texts exactly, as GPT-2's does")
        self.tokens = [self._spelled([token_id]) for token_id in range(vocab_size + 1)]
        self.eos_token_id = next(iter(eos_token_ids), vocab_size)
        self.special_token_ids = sorted(self._ends) or [vocab_size]

    def __call__(self, text: str | bytes) -> list[int]:
        """Ids of what must follow; in single characters where that names the end of the text."""
        if isinstance(text, bytes):
            text = text.decode()
        ids = self._spelling.encode(text)
        if self._ends.isdisjoint(ids):
            return ids
        return [token_id for char in text for token_id in self._spelling.encode(char)]

    def _spelled(self, ids: Sequence[int]) -> bytes:
        try:
            return b"".join(map(self._spelling.token_bytes, ids))
        except KeyError:
            return b""


def _reason(inner: LLMatcher) -> str:
    return _one_line(inner.get_error())


def _one_line(message: str) -> str:
    """What llguidance has to say, its first lines in one."""
    lines = [line.strip() for line in message.splitlines()]
    text = " ".join(line for line in lines if line and line != "<non-verbose/>")
    return text if len(text) <= MAX_ERROR_LEN else text[: MAX_ERROR_LEN - 3] + "..."
