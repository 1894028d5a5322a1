"""The baseline: what it can learn, what it cannot, and that dev alone chooses."""

from __future__ import annotations

import pytest
import torch

from model.tasks import TaskConfig
from training.bag_of_words import BagOfWords, bag_of_words
from training.finetune_preparation import TaskSplit
from training.task_batches import TaskExample
from training.task_data import Example

PLAIN = TaskConfig("classification", max_len=9, labels=("a", "b"))
PAIR = TaskConfig("similarity", max_len=9, join="sum", is_regression=True, score_range=(0.0, 5.0))
CHOICE = TaskConfig("multiple_choice", max_len=9)


def split(*rows: tuple[tuple[str, ...], float]) -> TaskSplit:
    examples = tuple(Example("here", texts, "") for texts, _ in rows)
    return TaskSplit(examples, [TaskExample(((1,),), target) for _, target in rows])


def test_a_word_decides_whatever_its_case_and_place() -> None:
    training = split((("A good one.",), 1), (("bad one",), 0), (("so good",), 1), (("the bad",), 0))
    model = BagOfWords(PLAIN, training, 1e-4)
    found = model.answers(split((("GOOD, unheard of",), 1), (("a bad",), 0), (("",), 0)))
    assert [answer.label for answer in found[:2]] == ["b", "a"]
    assert found[0].score > 0.9
    assert found[2].score == pytest.approx(0.5, abs=0.1)


def test_words_that_two_texts_share() -> None:
    """Of one text alone no word is a sign of likeness."""
    alike = [((f"w{i} x", f"w{i} x"), 1.0) for i in range(6)]
    unlike = [((f"w{i} x", f"w{(i + 1) % 6} y"), 0.0) for i in range(6)]
    model = BagOfWords(PAIR, split(*alike, *unlike), 1e-4)
    same, other = model.answers(split((("w1 x", "w1 x"), 1.0), (("w1 x", "w2 y"), 0.0)))
    assert same.score > 4
    assert other.score < 1


def test_choices_are_scored_one_by_one() -> None:
    rows = [(("q", "good", "bad"), 0), (("q", "bad", "good"), 1)] * 3
    (found,) = BagOfWords(CHOICE, split(*rows), 1e-4).answers(split((("q", "bad", "good"), 1)))
    assert found.label == "1"
    assert found.score > 0.9


def test_the_decay_is_chosen_on_dev_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    training = split((("good",), 1), (("bad",), 0))
    dev, test = split((("good",), 1)), split((("good",), 0))
    decays: list[float] = []

    def metrics(_: object, __: object, examples: object) -> dict[str, float]:
        is_dev = examples is dev.examples
        return {"accuracy": [0.1, 0.9, 0.9, 0.2][len(decays) - 1] if is_dev else len(decays)}

    monkeypatch.setattr("training.bag_of_words.metrics", metrics)
    monkeypatch.setattr(BagOfWords, "_fit", lambda _, __, decay: decays.append(decay))
    found = bag_of_words(PLAIN, training, [dev, test], "accuracy")
    assert found == [{"accuracy": 0.9}, {"accuracy": 2}]
    assert decays == sorted(decays)


def test_the_same_rows_give_the_same_weights() -> None:
    training = split((("a good one",), 1), (("bad one",), 0))
    first, second = (BagOfWords(PLAIN, training, 1e-3).answers(training) for _ in range(2))
    assert first == second
    assert torch.tensor([answer.score for answer in first]).min() > 0.9
