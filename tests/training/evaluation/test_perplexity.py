"""The loss of transformers on the same windows, and pretraining's bits per byte."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from model.config import GPTConfig
from model.network import gpt_with
from tests.training.evaluation.conftest import END_OF_TEXT_ID, NUM_POSITIONS
from tests.training.evaluation.fakes import Told, fake_session
from training.documents import Document
from training.errors import TrainingError
from training.evaluation.likelihood import GROUP_TOKENS
from training.evaluation.perplexity import TextScore, TextSubject, score_text
from training.evaluation.session import Result, Session, perplexity
from training.held_out import HeldOut
from weights.checkpoint import open_checkpoint

TEXT = "the cat sat on that mat,\n caf\u00e9 12 aaaa!\n" * 9
NUM_WORDS = 8 * 9


def value(result: Result, name: str) -> float:
    return next(measure.value for measure in result.measures if measure.name == name)


def guide_nats(theirs: Any, ids: list[int], max_len: int, stride: int) -> tuple[float, int]:
    """The sliding window of transformers' page on perplexity: summed loss, tokens it is of."""
    nats, count, scored_to = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + max_len, len(ids))
        inputs = torch.tensor([ids[begin:end]])
        labels = inputs.clone()
        labels[:, : scored_to - end] = -100  # all but those that no window has reached yet
        if begin == 0:
            labels = inputs
        with torch.no_grad():
            loss = theirs(inputs, labels=labels).loss.item()
        num_scored = int((labels[:, 1:] != -100).sum())
        nats, count, scored_to = nats + loss * num_scored, count + num_scored, end
        if end == len(ids):
            break
    return nats, count


@pytest.mark.parametrize("stride", [1, 7, 16])
def test_sliding_windows_give_the_loss_of_transformers(
    session: Session, theirs: Any, stride: int
) -> None:
    # A window of theirs has as many tokens as ours has predictions and the one that is only scored.
    window_len = NUM_POSITIONS - 1
    score = score_text(replace(session, window_len=window_len), TEXT, NUM_WORDS, stride, "text")
    ids = [END_OF_TEXT_ID, *session.tokenizer.encode(TEXT)]
    nats, count = guide_nats(theirs, ids, NUM_POSITIONS, stride)
    assert score.num_tokens == count == len(ids) - 1
    assert score.nats / count == pytest.approx(nats / count, abs=1e-4)


def test_whole_windows_give_the_loss_of_transformers(session: Session, theirs: Any) -> None:
    ids = torch.tensor([END_OF_TEXT_ID, *session.tokenizer.encode(TEXT)])
    nats = 0.0
    for start in range(0, len(ids) - 1, NUM_POSITIONS):
        inputs, targets = ids[start:-1][:NUM_POSITIONS], ids[start + 1 :][:NUM_POSITIONS]
        with torch.no_grad():
            logits = theirs(inputs.unsqueeze(0)).logits[0]
        nats += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
    score = score_text(session, TEXT, NUM_WORDS, NUM_POSITIONS, "text")
    assert score.nats / score.num_tokens == pytest.approx(nats / (len(ids) - 1), abs=1e-4)


@pytest.mark.parametrize("limit", [None, 2])
def test_windows_that_do_not_overlap_give_pretraining_s_bits(
    session: Session, checkpoint: Any, limit: int | None
) -> None:
    opened = open_checkpoint(checkpoint)
    gpt = gpt_with(opened.config, opened.tensors)
    held_out = HeldOut([Document("a.txt", TEXT)], session.tokenizer, END_OF_TEXT_ID)
    (expected,) = held_out.score(gpt, torch.float32, limit)
    subject = TextSubject("a.txt", (Document("a.txt", TEXT),))
    (found,) = subject.results(replace(session, stride=NUM_POSITIONS, limit=limit))
    assert value(found, "bits per byte") == pytest.approx(expected.bits_per_byte, abs=1e-5)
    assert found.counts["tokens"] == expected.num_tokens
    assert found.counts["bytes"] == expected.num_bytes


def test_the_stride_matters_to_these_weights(session: Session) -> None:
    """Or equal losses would say nothing of windows."""
    found = {s: score_text(session, TEXT, NUM_WORDS, s, "text").nats for s in (1, 7, NUM_POSITIONS)}
    assert len({round(nats) for nats in found.values()}) == 3


def session_of_four(**changes: Any) -> Session:
    """Every token is one of four that are equally likely."""
    return fake_session(lambda before, token: Told(-math.log(4)), **changes)


def test_the_three_figures() -> None:
    subject = TextSubject("x", (Document("x.txt", "ab cd\nef\n"),))
    (result,) = subject.results(session_of_four())
    assert result.protocol == "plain"
    assert result.counts == {"tokens": 9, "words": 3, "bytes": 9}
    assert value(result, "perplexity per token") == pytest.approx(4)
    assert value(result, "perplexity per word") == pytest.approx(4**3)
    assert value(result, "bits per byte") == pytest.approx(2)
    assert all(measure.published_as is None for measure in result.measures)


def test_the_paper_s_protocol_counts_the_words_of_the_original_and_its_line_ends() -> None:
    subject = TextSubject("x", (Document("x.txt", "ab , cd\n ef\n"),), str.upper, "PTB ppl")
    session = session_of_four(protocols=("paper",))
    (result,) = subject.results(session)
    assert result.counts["words"] == 6
    assert result.measures[0].published_as == "PTB ppl"
    asked = session.scorer.asked  # type: ignore[attr-defined]
    assert "".join(map(chr, asked[0].ids[1:] + asked[1].ids[1:])) == "AB , CD\n EF\n"
    assert [item.scored_from for item in asked] == [1, 1]  # windows that do not overlap


def test_a_text_without_a_detokeniser_has_one_row_and_several_texts_a_total() -> None:
    documents = (Document("a.txt", "aa"), Document("b.txt", "bb bb"))
    found = list(TextSubject("x", documents).results(session_of_four()))
    assert [result.on for result in found] == ["x: a.txt", "x: b.txt", "x: all"]
    assert found[-1].counts == {"tokens": 7, "words": 3, "bytes": 7}


def test_of_a_beginning_words_are_counted_by_its_share() -> None:
    subject = TextSubject("x", (Document("x.txt", "abc abc abc abc "),))
    (result,) = subject.results(session_of_four(limit=1))
    assert result.counts == {"tokens": 8, "words": 2, "bytes": 8}


def test_without_a_start_token_the_first_token_is_not_scored() -> None:
    (result,) = TextSubject("x", (Document("x", "abc"),)).results(session_of_four(start_id=None))
    assert result.counts["tokens"] == result.counts["bytes"] == 2
    with pytest.raises(TrainingError, match="x must have at least 2 tokens to be scored, got 1"):
        list(TextSubject("x", (Document("x", "a"),)).results(session_of_four(start_id=None)))


def test_long_texts_are_scored_in_groups() -> None:
    text = "a" * (2 * GROUP_TOKENS)
    session = session_of_four(window_len=255, stride=255)
    (result,) = TextSubject("x", (Document("x", text),)).results(session)
    assert result.counts["tokens"] == len(text)
    # 64 whole windows of 256 tokens are two groups, and some tokens are left.
    assert session.scorer.groups == [32, 32, 1]  # type: ignore[attr-defined]


def test_a_total_is_the_sum() -> None:
    total = TextScore.total([TextScore(1.0, 2, 3, 4.0), TextScore(10.0, 20, 30, 40.0)])
    assert total == TextScore(11.0, 22, 33, 44.0)


def test_what_a_float_cannot_hold_is_infinite() -> None:
    assert perplexity(700.0, 1) == pytest.approx(math.exp(700))
    assert perplexity(800.0, 1) == math.inf


def test_the_small_checkpoint_is_what_the_tests_say(checkpoint: Any) -> None:
    config: GPTConfig = open_checkpoint(checkpoint).config
    assert config.eos_token_ids == (END_OF_TEXT_ID,)
    assert config.num_positions == NUM_POSITIONS
