"""Multiple choice by likelihood, in the form of the Children's Book Test (Hill et al. 2016).

Each candidate is put into the blank, and the likeliest text wins: the probability of the candidate
and of the rest of the sentence after it (GPT-2 paper, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from training.evaluation.detokenise import Detokeniser
from training.evaluation.examples import ExampleError, text_of, texts_of
from training.evaluation.fitting import fitted
from training.evaluation.likelihood import Item, TokenScore, scores
from training.evaluation.session import Measure, Result, Session

BLANK = "XXXXX"


@dataclass(frozen=True, slots=True)
class Question:
    """``texts`` have one candidate each in the blank; ``answer`` is the index of the right one."""

    texts: tuple[str, ...]
    answer: int


def question_of(values: object) -> Question:
    """One line: ``context`` (a text or a list), ``question``, ``candidates``, ``answer``.

    Raises ExampleError.
    """
    context = " ".join(texts_of(values, "context"))
    sentence, answer = text_of(values, "question"), text_of(values, "answer")
    candidates = texts_of(values, "candidates")
    if BLANK not in sentence:
        raise ExampleError(f"question must have {BLANK} where the word is missing")
    if len(set(candidates)) != len(candidates) or len(candidates) < 2:
        raise ExampleError(f"candidates must be at least 2, all different, got {candidates!r}")
    if answer not in candidates:
        raise ExampleError(f"answer must be one of the candidates, got {answer!r}")
    texts = tuple(f"{context} {sentence.replace(BLANK, word)}".strip() for word in candidates)
    return Question(texts, candidates.index(answer))


@dataclass(frozen=True, slots=True)
class ChoiceSubject:
    """Questions. ``plain`` reads them as they lie, ``paper`` after ``detokenise``."""

    on: str
    questions: tuple[Question, ...]
    detokenise: Detokeniser | None = None
    published_as: str | None = None

    def results(self, session: Session) -> Iterator[Result]:
        """See Subject."""
        for protocol in session.protocols:
            if protocol == "plain":
                yield self._result(session, str, protocol)
            elif self.detokenise is not None:
                yield self._result(session, self.detokenise, protocol)

    def _result(self, session: Session, prepare: Detokeniser, protocol: str) -> Result:
        questions = self.questions[: session.limit]
        items = [
            item
            for number, question in enumerate(questions, start=1)
            for item in self._items(session, [prepare(text) for text in question.texts], number)
        ]
        found = zip(items, scores(session.scorer, items, f"{self.on}, {protocol}"), strict=True)
        weigh = _weighed(session)
        num_right = [0, 0, 0]
        for question in questions:
            weights = [weigh(*next(found)) for _ in question.texts]
            for way, values in enumerate(zip(*weights, strict=True)):
                num_right[way] += values.index(max(values)) == question.answer
        names = ("accuracy, %", "accuracy per token, %", "accuracy per byte, %")
        columns = (self.published_as if protocol == "paper" else None, None, None)
        measures = tuple(
            Measure(name, 100 * right / len(questions), column)
            for name, right, column in zip(names, num_right, columns, strict=True)
        )
        return Result(self.on, protocol, measures, {"questions": len(questions)})

    def _items(self, session: Session, texts: Sequence[str], number: int) -> list[Item]:
        """What the candidates have in common is computed once, and is scored for none."""
        sequences = [session.tokenizer.encode(text) for text in texts]
        columns = zip(*sequences, strict=False)
        num_common = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
        # One text may begin another: each must have something that is scored.
        scored_from = max(1, min(num_common, min(map(len, sequences)) - 1))
        most = session.scorer.context_len + 1
        return fitted(sequences, scored_from, most, f"{self.on}, question {number}")


def _weighed(session: Session) -> Callable[[Item, Sequence[TokenScore]], tuple[float, ...]]:
    """The log-likelihood of what was scored: in all, per token, per byte."""

    def weigh(item: Item, found: Sequence[TokenScore]) -> tuple[float, ...]:
        total = math.fsum(score.logprob for score in found)
        num_bytes = len(session.tokenizer.decode_bytes(item.ids[item.scored_from :]))
        return total, total / len(found), total / num_bytes

    return weigh
