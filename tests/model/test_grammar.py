"""Masks of grammars: what may follow, when a text is complete, and what is refused."""

from __future__ import annotations

import json
import random
import time

import pytest

from model.grammar import (
    GrammarError,
    Grammars,
    Matcher,
    choice_grammar,
    json_grammar,
    regex_grammar,
)

END = "<end>"
EOS = 256
VOCAB_SIZE = 300
WORDS = (END, "abc", "bc", "12", '{"', "é", "\u00e9\U0001f642")


class ByteWords:
    """256 bytes, the end, some words, and ids that stand for nothing."""

    vocab_size = 256 + len(WORDS)

    def encode(self, text: str) -> list[int]:
        head, end, tail = text.partition(END)
        return [*head.encode(), EOS, *self.encode(tail)] if end else [*text.encode()]

    def token_bytes(self, token_id: int, /) -> bytes:
        if token_id < 256:
            return bytes([token_id])
        if token_id >= self.vocab_size:
            raise KeyError(token_id)
        return WORDS[token_id - 256].encode()


class LowerWords(ByteWords):
    """As the first GPT's, they forget what was upper-case."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text.lower())


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(ByteWords(), VOCAB_SIZE, (EOS,))


def allowed_ids(matcher: Matcher) -> list[int]:
    bits = int.from_bytes(matcher.allowed or b"", "little")
    return [token_id for token_id in range(VOCAB_SIZE + 32) if bits >> token_id & 1]


def written(matcher: Matcher, seed: int = 0, most: int = 4_000) -> str:
    """A text that goes on with any token that is allowed; it must come to its end."""
    rng, data = random.Random(seed), b""
    for _ in range(most):
        if matcher.is_complete:
            return data.decode()
        token_id = rng.choice(allowed_ids(matcher))
        if token_id == EOS:
            return data.decode()
        data += ByteWords().token_bytes(token_id)
        matcher.take(token_id)
    raise AssertionError(f"no end after {most} tokens: {data[:80]!r}")


def test_every_way_to_spell_a_text_is_open_and_the_end_where_it_accepts(grammars: Grammars) -> None:
    matcher = grammars.matcher(regex_grammar("abc|a1*"))
    assert allowed_ids(matcher) == [ord("a"), 256 + WORDS.index("abc")]
    matcher.take(ord("a"))
    assert allowed_ids(matcher) == [ord("1"), ord("b"), EOS, 256 + WORDS.index("bc")]
    assert not matcher.is_complete
    matcher.take(256 + WORDS.index("bc"))
    assert matcher.is_complete
    assert not matcher.is_failed


def test_one_grammar_has_many_matchers(grammars: Grammars) -> None:
    """n choices compile once, and none sees what another has written."""
    first = grammars.matcher(regex_grammar("xy"))
    first.take(ord("x"))
    second = grammars.matcher(regex_grammar("xy"))
    assert allowed_ids(first) == [ord("y")]
    assert allowed_ids(second) == [ord("x")]


CHOICES = ["yes", "no", "a.*b", "a|b", " two\nlines", "é🙂", '"', f"{END}!", "\\d"]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_is_itself_and_no_pattern(grammars: Grammars, choice: str) -> None:
    assert written(grammars.matcher(choice_grammar([choice]))) == choice


def test_of_choices_one_comes_whole(grammars: Grammars) -> None:
    found = {written(grammars.matcher(choice_grammar(CHOICES)), seed) for seed in range(60)}
    assert found == {*CHOICES}


def test_json_is_spaced_as_python_does(grammars: Grammars) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"const": 1}, "b": {"type": "array", "items": {"const": "x"}}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    text = written(grammars.matcher(json_grammar(schema)), seed=3)
    assert text == json.dumps(json.loads(text))


def test_without_an_end_token_only_what_must_end_ends() -> None:
    matcher = Grammars(ByteWords(), VOCAB_SIZE).matcher(regex_grammar("ab?"))
    matcher.take(ord("a"))
    assert allowed_ids(matcher) == [ord("b")]
    matcher.take(ord("b"))
    assert matcher.is_complete


def test_what_is_banned_is_left_out_unless_nothing_else_is_left(grammars: Grammars) -> None:
    matcher = grammars.matcher(regex_grammar("a*"))
    bits = int.from_bytes(matcher.without((EOS,)) or b"", "little")
    assert bits == 1 << ord("a")
    only = grammars.matcher(regex_grammar("xy"))
    assert only.without((ord("x"), EOS)) == only.allowed


@pytest.mark.parametrize(
    ("grammar", "told"),
    [
        (regex_grammar("[a"), "unclosed character class"),
        (regex_grammar("(?=a)b"), "look-ahead"),
        (
            json_grammar({"type": "array", "uniqueItems": True}),
            'Unimplemented keys: ["uniqueItems"]',
        ),
        (json_grammar({"$ref": "http://example.com/a"}), "not present in a registry"),
        (json_grammar({"allOf": [{"type": "string"}, {"type": "integer"}]}), "Unsatisfiable"),
        ("no grammar", ""),
    ],
)
def test_what_cannot_be_followed_is_told_in_one_short_line(
    grammars: Grammars, grammar: str, told: str
) -> None:
    with pytest.raises(GrammarError) as caught:
        grammars.matcher(grammar)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert 0 < len(str(caught.value)) <= 200


def test_a_vocabulary_that_changes_texts_is_refused() -> None:
    with pytest.raises(GrammarError, match="spells texts exactly"):
        Grammars(LowerWords(), VOCAB_SIZE, (EOS,))


def test_a_grammar_that_outgrows_its_limits_fails_and_does_not_hang(grammars: Grammars) -> None:
    branches = [{"type": "object", "properties": {f"k{i}": {"type": "string"}}} for i in range(300)]
    matcher = grammars.matcher(json_grammar({"anyOf": branches}))
    matcher.take(ord("{"))
    assert matcher.is_failed
    assert matcher.allowed is None
    assert not matcher.is_complete


HOSTILE = [
    regex_grammar("(.*a.{9}){40}"),
    regex_grammar("(a{1,1000}){1,1000}"),
    regex_grammar("((a*)*)*b"),
    regex_grammar("|".join(f".*{i}.*" for i in range(600))),
    json_grammar({"type": "array", "minItems": 10**6, "items": {"type": "integer"}}),
    json_grammar({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}),
]


@pytest.mark.parametrize("grammar", HOSTILE)
def test_a_hostile_grammar_is_compiled_or_refused_within_its_limits(
    grammars: Grammars, grammar: str
) -> None:
    """Milliseconds, where a backtracking or unbounded compiler would take minutes."""
    started_s = time.process_time()
    try:
        matcher = grammars.matcher(grammar)
        for _ in range(20):
            if matcher.is_complete or matcher.is_failed:
                break
            matcher.take(allowed_ids(matcher)[0])
    except GrammarError:
        pass
    assert time.process_time() - started_s < 10
