"""The last word, the last token, and what is no last word."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.tokenizer import Tokenizer
from tests.training.evaluation.conftest import logprobs_of
from tests.training.evaluation.fakes import FakeScorer, Told
from training.errors import TrainingError
from training.evaluation.detokenise import lambada
from training.evaluation.examples import ExampleError, read_examples
from training.evaluation.last_word import (
    LastWordSubject,
    before_last_word,
    is_guessed,
    passage_of,
)
from training.evaluation.session import Result, Session
from training.evaluation.stop_words import STOP_WORDS, stop_ids

PASSAGES = ("the cat sat on that mat", "aaaa that cafe", "12 cat the sat\nmat", "on the the")


def value(result: Result, name: str) -> float:
    return next(measure.value for measure in result.measures if measure.name == name)


@pytest.mark.parametrize(
    ("passage", "before"),
    [
        ("He was her friend", "He was her"),
        ("he said, \u201cEvan", "he said,"),
        ("he said:\nEvan", "he said:\n"),
        ("he  said", "he "),
    ],
)
def test_before_the_last_word(passage: str, before: str) -> None:
    assert before_last_word(passage) == before


@pytest.mark.parametrize("protocol", ["plain", "paper"])
def test_perplexity_and_accuracy_are_those_of_transformers(
    session: Session, theirs: Any, protocol: str
) -> None:
    encode = session.tokenizer.encode
    nats, num_right = 0.0, 0
    for passage in PASSAGES:
        if protocol == "paper":
            ids = encode(lambada(passage))
            first = len(ids) - 1
        else:
            ids = encode(passage)
            first = len(encode(before_last_word(passage)))
        table = logprobs_of(theirs, ids)[first - 1 :]  # (word's tokens, V)
        nats -= sum(table[i, token_id].item() for i, token_id in enumerate(ids[first:]))
        num_right += table.argmax(-1).tolist() == ids[first:]
    subject = LastWordSubject("lambada", PASSAGES)
    (result,) = subject.results(replace(session, protocols=(protocol,)))
    assert math.log(value(result, "perplexity")) == pytest.approx(nats / len(PASSAGES), abs=1e-4)
    assert value(result, "accuracy, %") == 100 * num_right / len(PASSAGES)
    assert result.counts["passages"] == len(PASSAGES)


def top(*ids: int) -> Told:
    return Told(-1.0, tuple((token_id, -1.0) for token_id in ids))


def test_a_word_is_guessed_where_each_token_is_the_likeliest() -> None:
    assert is_guessed([top(5, 9), top(6)], [5, 6], frozenset())
    assert not is_guessed([top(9, 5), top(6)], [5, 6], frozenset())
    assert not is_guessed([top(5, 9), top(7, 6)], [5, 6], frozenset())


def test_stop_words_are_no_guess() -> None:
    assert is_guessed([top(1, 2, 5)], [5], frozenset({1, 2}))
    assert not is_guessed([top(1, 3, 5)], [5], frozenset({1, 2}))
    assert not is_guessed([top(5)], [5], frozenset({5}))
    assert not is_guessed([top(1, 2)], [5], frozenset({1, 2}))


def test_a_word_may_begin_as_a_stop_word_does() -> None:
    """ " an" + "other": the first token alone would be a stop word, both are none."""
    assert is_guessed([top(1), top(6)], [1, 6], frozenset({1}))
    assert not is_guessed([top(1), top(7)], [1, 6], frozenset({1}))
    assert not is_guessed([top(1)], [1], frozenset({1}))


def test_the_filter_is_told_apart_in_the_result(tokenizer: Tokenizer) -> None:
    (the,) = tokenizer.encode(" the")
    (mat,) = tokenizer.encode(" mat")
    scorer = FakeScorer(lambda before, token: top(the, mat))
    session = Session(scorer, tokenizer, 0, 8, 8, protocols=("plain",))
    (result,) = LastWordSubject("lambada", ("cat mat", "cat the", "cat sat")).results(session)
    assert value(result, "accuracy, %") == pytest.approx(100 / 3)
    assert value(result, "accuracy without stop words, %") == pytest.approx(100 / 3)
    (result,) = LastWordSubject("lambada", ("cat mat", "cat mat")).results(session)
    assert value(result, "accuracy, %") == 0
    assert value(result, "accuracy without stop words, %") == 100
    assert [measure.published_as for measure in result.measures] == [None, None, None]
    (paper,) = LastWordSubject("x", ("cat mat",)).results(replace(session, protocols=("paper",)))
    columns = [measure.published_as for measure in paper.measures]
    assert columns == ["LAMBADA ppl", None, "LAMBADA acc"]


def test_stop_ids_are_whole_words(tokenizer: Tokenizer) -> None:
    assert stop_ids(tokenizer)
    for token_id in stop_ids(tokenizer):
        text = tokenizer.decode([token_id])
        assert text.startswith(" ")
        assert text[1:].lower() in STOP_WORDS


def test_a_long_passage_loses_its_beginning(session: Session) -> None:
    passage = "cat " * 100 + "mat"
    scorer = FakeScorer(lambda before, token: top(token), context_len=10)
    own = replace(session, scorer=scorer, protocols=("plain",))
    list(LastWordSubject("lambada", (passage,)).results(own))
    (item,) = scorer.asked
    assert item.ids == tuple(session.tokenizer.encode(passage)[-11:])
    assert item.scored_from == 10


def test_a_word_that_no_context_holds_is_named(session: Session) -> None:
    subject = LastWordSubject("lambada", ("the cat", "cat " + "zq" * 60))
    with pytest.raises(TrainingError, match="lambada, passage 2 must have at most 32 tokens"):
        list(subject.results(session))


def test_a_limit_counts_passages(session: Session) -> None:
    found = LastWordSubject("lambada", PASSAGES).results(replace(session, limit=2))
    assert [result.counts["passages"] for result in found] == [2, 2]


@pytest.mark.parametrize("values", [{"text": "one"}, {"text": 1}, {}, [], {"text": " "}])
def test_what_is_no_passage(values: object) -> None:
    with pytest.raises(ExampleError):
        passage_of(values)


def test_openai_s_file(shared_data: Path) -> None:
    passages = read_examples(shared_data / "lm" / "lambada" / "lambada_test.jsonl", passage_of)
    assert len(passages) == 5_153
    assert passages[0].endswith("don't care about signs")
