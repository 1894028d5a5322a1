"""Perplexity of texts, per token and per word, and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from training.documents import Document
from training.errors import TrainingError
from training.evaluation.detokenise import Detokeniser
from training.evaluation.likelihood import scores
from training.evaluation.session import Measure, Result, Session, perplexity
from training.evaluation.windows import windows


@dataclass(frozen=True, slots=True)
class TextScore:
    """``nats`` of surprise over tokens that are bytes, and words.

    ``num_words`` counts those of the text as it lies. Where only its beginning was scored, it is
    the share that the scored bytes are of all.
    """

    nats: float
    num_tokens: int
    num_bytes: int
    num_words: float

    @classmethod
    def total(cls, found: Sequence[TextScore]) -> TextScore:
        """All texts as one."""
        return cls(
            math.fsum(score.nats for score in found),
            sum(score.num_tokens for score in found),
            sum(score.num_bytes for score in found),
            math.fsum(score.num_words for score in found),
        )

    def measures(self, per_word: str | None) -> tuple[Measure, ...]:
        """The three figures; ``per_word`` is the first one's column in the paper's table."""
        return (
            Measure("perplexity per word", perplexity(self.nats, self.num_words), per_word),
            Measure("perplexity per token", perplexity(self.nats, self.num_tokens)),
            Measure("bits per byte", self.nats / math.log(2) / self.num_bytes, num_decimals=4),
        )


@dataclass(frozen=True, slots=True)
class TextSubject:
    """Texts that are scored one by one; where there are several, their total comes last.

    ``plain`` reads them as they lie, in windows ``stride`` apart, and counts words between white
    space. ``paper`` applies ``detokenise`` where there is one, in windows that do not overlap, and
    counts an end of line as a word, as published word perplexities do (``<eos>``).
    """

    on: str
    documents: tuple[Document, ...]
    detokenise: Detokeniser | None = None
    published_as: str | None = None

    def results(self, session: Session) -> Iterator[Result]:
        """See Subject."""
        for protocol in session.protocols:
            if protocol == "paper" and self.detokenise is None:
                continue
            found = []
            for document in self.documents:
                name = self.on if len(self.documents) == 1 else f"{self.on}: {document.name}"
                found.append(self._score(session, document, protocol, name))
                yield self._result(name, protocol, found[-1])
            if len(found) > 1:
                yield self._result(f"{self.on}: all", protocol, TextScore.total(found))

    def _score(self, session: Session, document: Document, protocol: str, name: str) -> TextScore:
        text, stride = document.text, session.stride
        num_words = len(text.split())
        if protocol == "paper" and self.detokenise is not None:
            num_words += text.count("\n")
            text, stride = self.detokenise(text), session.window_len
        return score_text(session, text, num_words, stride, name)

    def _result(self, name: str, protocol: str, score: TextScore) -> Result:
        measures = score.measures(self.published_as if protocol == "paper" else None)
        counts = {
            "tokens": score.num_tokens,
            "words": round(score.num_words),
            "bytes": score.num_bytes,
        }
        return Result(name, protocol, measures, counts)


def score_text(session: Session, text: str, num_words: int, stride: int, name: str) -> TextScore:
    """Score ``text``, or its first ``session.limit`` windows; ``num_words`` are in all of it."""
    start = () if session.start_id is None else (session.start_id,)
    ids = (*start, *session.tokenizer.encode(text))
    items = windows(ids, session.window_len, stride, session.limit)
    if not items:
        raise TrainingError([f"{name} must have at least 2 tokens to be scored, got {len(ids)}"])
    nats = -math.fsum(s.logprob for found in scores(session.scorer, items, name) for s in found)
    num_tokens = sum(item.num_scored for item in items)
    tokenizer = session.tokenizer
    num_bytes = len(tokenizer.decode_bytes(ids[1 : 1 + num_tokens]))
    share = num_bytes / len(tokenizer.decode_bytes(ids[1:]))
    return TextScore(nats, num_tokens, num_bytes, num_words * share)
