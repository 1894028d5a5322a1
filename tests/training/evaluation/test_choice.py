"""The likelier text wins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.training.evaluation.conftest import logprobs_of
from tests.training.evaluation.fakes import FakeScorer, Told, fake_session
from training.errors import TrainingError
from training.evaluation.choice import ChoiceSubject, Question, question_of
from training.evaluation.examples import ExampleError
from training.evaluation.session import Result, Session

LINE: dict[str, Any] = {
    "context": ["the cat sat .", "that mat"],
    "question": "the XXXXX sat on it",
    "candidates": ["cat", "mat", "cafe"],
    "answer": "mat",
}


def question(**changes: Any) -> Question:
    return question_of({**LINE, **changes})


def values(result: Result) -> list[float]:
    return [measure.value for measure in result.measures]


def test_each_candidate_is_put_into_the_blank() -> None:
    found = question()
    assert found.texts[1] == "the cat sat . that mat the mat sat on it"
    assert found.answer == 1
    assert question(context="a b").texts[0] == "a b the cat sat on it"


def test_the_sum_is_that_of_transformers(session: Session, theirs: Any) -> None:
    """Right or wrong as the whole text's likelihood says, for each candidate as the answer."""
    own = replace(session, protocols=("plain",))
    for context in ("cat mat 12", "on on on on", ""):
        texts = question(context=context or []).texts
        sums = []
        for text in texts:
            ids = session.tokenizer.encode(text)
            table = logprobs_of(theirs, ids)
            sums.append(sum(table[i, t].item() for i, t in enumerate(ids[1:])))
        for answer, candidate in enumerate(LINE["candidates"]):
            one = question(context=context or [], answer=candidate)
            (result,) = ChoiceSubject("x", (one,)).results(own)
            assert values(result)[0] == (100 if sums[answer] == max(sums) else 0)


def test_the_three_ways_of_weighing_differ() -> None:
    """In all "a" is the likeliest, per token "bbb", per byte the two of three bytes each."""
    told = {"a": -4.0, "b": -1.5, "\u4e16": -2.5}
    session = fake_session(lambda before, token: Told(told[chr(token)]), protocols=("plain",))
    texts = ("x a", "x bbb", "x \u4e16\u4e16")
    found = [ChoiceSubject("x", (Question(texts, i),)).results(session) for i in range(3)]
    assert [values(result) for (result,) in found] == [[100, 0, 0], [0, 100, 0], [0, 0, 100]]


def test_only_where_they_differ_is_scored(session: Session) -> None:
    scorer = FakeScorer(lambda before, token: Told(-1.0))
    own = replace(session, scorer=scorer, protocols=("plain",))
    list(ChoiceSubject("x", (question(),)).results(own))
    num_common = len(session.tokenizer.encode("the cat sat . that mat the"))
    assert {item.scored_from for item in scorer.asked} == {num_common}
    list(ChoiceSubject("x", (Question(("cat sat", "cat sat mat"), 0),)).results(own))
    assert all(item.num_scored for item in scorer.asked)


def test_a_long_context_loses_its_beginning_alike(session: Session) -> None:
    scorer = FakeScorer(lambda before, token: Told(-1.0), context_len=12)
    own = replace(session, scorer=scorer, protocols=("plain",))
    list(ChoiceSubject("x", (question(context="cat " * 50),)).results(own))
    assert max(len(item.ids) for item in scorer.asked) == 13
    starts = {item.ids[: item.scored_from] for item in scorer.asked}
    assert len(starts) == 1
    tight = replace(own, scorer=FakeScorer(lambda before, token: Told(-1.0), context_len=2))
    with pytest.raises(TrainingError, match="x, question 1 must have at most 2 tokens"):
        list(ChoiceSubject("x", (question(),)).results(tight))


def test_the_paper_s_protocol_detokenises(session: Session) -> None:
    scorer = FakeScorer(lambda before, token: Told(-1.0))
    subject = ChoiceSubject("cbt-cn", (question(),), str.upper, "CBT-CN acc")
    plain, paper = subject.results(replace(session, scorer=scorer))
    assert [measure.published_as for measure in plain.measures] == [None, None, None]
    assert [measure.published_as for measure in paper.measures] == ["CBT-CN acc", None, None]
    assert "MAT SAT" in session.tokenizer.decode(scorer.asked[-2].ids)
    assert len(list(ChoiceSubject("x", (question(),)).results(session))) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"question": "no blank"}, "question must have XXXXX"),
        ({"candidates": ["mat"]}, "candidates must be at least 2, all different"),
        ({"candidates": ["mat", "mat"]}, "candidates must be at least 2, all different"),
        ({"candidates": ["cat", "cafe"]}, "answer must be one of the candidates, got 'mat'"),
        ({"context": 5}, "context must be a text or a list of texts, got 5"),
        ({"candidates": [1, 2]}, "candidates must be a text or a list of texts"),
    ],
)
def test_what_is_no_question(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ExampleError, match=words):
        question(**changes)
