"""LAMBADA (Paperno et al. 2016): the last word of a passage, which takes all of it to guess."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from training.evaluation.detokenise import lambada
from training.evaluation.examples import ExampleError, text_of
from training.evaluation.fitting import fitted, num_tokens_within
from training.evaluation.likelihood import Item, TokenScore, scores
from training.evaluation.session import Measure, Result, Session, perplexity
from training.evaluation.stop_words import stop_ids

NUM_TOP = 20
"""Guesses that the stop-word filter looks through. Should all be stop words, none is right."""


def passage_of(values: object) -> str:
    """The ``text`` of one line of OpenAI's lambada_test.jsonl. Raises ExampleError."""
    text = text_of(values, "text").rstrip()
    if len(text.split()) < 2:
        raise ExampleError(f"text must have at least 2 words, got {text!r}")
    return text


@dataclass(frozen=True, slots=True)
class LastWordSubject:
    """Passages of at least two words.

    ``plain`` scores the last word, of however many tokens: right where each of them is the
    likeliest. ``paper`` scores the last token, as the authors of GPT-2 did (openai/gpt-2#131),
    after their preparation of the text. Perplexity is per passage.
    """

    on: str
    passages: tuple[str, ...]

    def results(self, session: Session) -> Iterator[Result]:
        """See Subject."""
        for protocol in session.protocols:
            passages = self.passages[: session.limit]
            items = [
                self._item(session, passage, protocol, f"{self.on}, passage {i + 1}")
                for i, passage in enumerate(passages)
            ]
            yield self._result(session, items, protocol)

    def _item(self, session: Session, passage: str, protocol: str, name: str) -> Item:
        tokenizer = session.tokenizer
        if protocol == "paper":
            ids = tokenizer.encode(lambada(passage))
            scored_from = len(ids) - 1
        else:
            ids = tokenizer.encode(passage)
            num_bytes = len(before_last_word(passage).encode())
            scored_from = max(1, num_tokens_within(tokenizer, ids, num_bytes))
        return fitted([ids], scored_from, session.scorer.context_len + 1, name)[0]

    def _result(self, session: Session, items: Sequence[Item], protocol: str) -> Result:
        banned = stop_ids(session.tokenizer)
        nats: list[float] = []
        num_right = num_right_filtered = 0
        for item, found in zip(
            items, scores(session.scorer, items, f"{self.on}, {protocol}", NUM_TOP), strict=True
        ):
            nats.extend(-score.logprob for score in found)
            target = item.ids[item.scored_from :]
            num_right += is_guessed(found, target, frozenset())
            num_right_filtered += is_guessed(found, target, banned)
        is_paper = protocol == "paper"
        measures = (
            Measure(
                "perplexity",
                perplexity(math.fsum(nats), len(items)),
                "LAMBADA ppl" if is_paper else None,
            ),
            Measure("accuracy, %", 100 * num_right / len(items)),
            Measure(
                "accuracy without stop words, %",
                100 * num_right_filtered / len(items),
                "LAMBADA acc" if is_paper else None,
            ),
        )
        counts = {"passages": len(items), "tokens": sum(item.num_scored for item in items)}
        return Result(self.on, protocol, measures, counts)


def before_last_word(passage: str) -> str:
    """What stands before the last word and one space: the space belongs to the word's token."""
    return passage[: -len(passage.rsplit(maxsplit=1)[-1])].removesuffix(" ")


def is_guessed(
    found: Sequence[TokenScore], target: Sequence[int], banned_ids: frozenset[int]
) -> bool:
    """Whether the greedy guess is ``target``, where no word of ``banned_ids`` may be guessed.

    A word of several tokens may begin with the token of a stop word.
    """
    banned = banned_ids - {target[0]} if len(target) > 1 else banned_ids
    first = next((token_id for token_id, _ in found[0].top if token_id not in banned), None)
    rest = [score.top[0][0] for score in found[1:]]
    return [first, *rest] == list(target)
