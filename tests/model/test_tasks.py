"""The input transformations, their truncation, and answers from logits."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import ConfigError
from model.tasks import MIN_LEN, TaskConfig, TaskInputError, outcome, sequences

S, D, E = 100, 101, 102
"""Start, delimiter and extract of a vocabulary of 100."""


def config(form: str, **changes: Any) -> TaskConfig:
    values: dict[str, Any] = {"form": form, "max_len": 20}
    if form != "multiple_choice":
        values["labels"] = ("no", "yes")
    if form == "similarity":
        values["join"] = "sum"
    return TaskConfig(**{**values, **changes})


REGRESSION: dict[str, Any] = {"labels": (), "is_regression": True, "score_range": (0.0, 5.0)}


def test_the_four_forms_of_the_paper() -> None:
    """GPT paper, figure 1."""
    assert sequences(config("classification"), ((1, 2),), 100) == ((S, 1, 2, E),)
    assert sequences(config("entailment"), ((1, 2), (3,)), 100) == ((S, 1, 2, D, 3, E),)
    assert sequences(config("similarity"), ((1, 2), (3,)), 100) == (
        (S, 1, 2, D, 3, E),
        (S, 3, D, 1, 2, E),
    )
    assert sequences(config("multiple_choice"), ((1,), (2,), (3, 4), (5,)), 100) == (
        (S, 1, D, 2, E),
        (S, 1, D, 3, 4, E),
        (S, 1, D, 5, E),
    )


def test_a_classifier_of_the_last_token_has_no_special_ids() -> None:
    last = config("classification", pooling="last", max_len=5)
    assert sequences(last, ((1, 2, 3),), 100) == ((1, 2, 3),)
    assert sequences(last, (tuple(range(9)),), 100) == ((0, 1, 2, 3, 4),)
    with pytest.raises(TaskInputError, match="at least 1 token, got 0"):
        sequences(last, ((),), 100)


def test_empty_texts_leave_the_special_ids() -> None:
    assert sequences(config("classification"), ((),), 100) == ((S, E),)
    assert sequences(config("entailment"), ((), ()), 100) == ((S, D, E),)


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [
        ((3, 4), (3, 4)),  # fits
        ((9, 2), (5, 2)),  # the longest gives way
        ((2, 9), (2, 5)),
        ((9, 9), (3, 3)),  # both longer than half of 7
        ((4, 9), (3, 3)),  # 4 is more than half as well
        ((4, 3), (4, 3)),
    ],
)
def test_what_is_too_long_loses_its_end(lengths: tuple[int, int], kept: tuple[int, int]) -> None:
    first, second = tuple(range(lengths[0])), tuple(range(50, 50 + lengths[1]))
    ((*ids,),) = sequences(config("entailment", max_len=10), (first, second), 100)
    assert ids == [S, *first[: kept[0]], D, *second[: kept[1]], E]


def test_both_orders_of_a_similarity_hold_the_same_tokens() -> None:
    short = config("similarity", max_len=10)
    for a, b in (((1,) * 9, (2,) * 2), ((1,) * 9, (2,) * 8), ((1,) * 4, (2,) * 4)):
        forth = sequences(short, (a, b), 100)
        assert sorted(forth[0]) == sorted(forth[1])
        assert sequences(short, (b, a), 100) == forth[::-1]


def test_choices_see_the_same_piece_of_the_context() -> None:
    context = tuple(range(30))
    ids = sequences(config("multiple_choice"), (context, (50,), (60,) * 6), 100)
    assert [len(row) for row in ids] == [15, 20]
    assert {row[: row.index(D)] for row in ids} == {(S, *range(11))}
    ids = sequences(config("multiple_choice"), (context, (50,), (60,) * 40), 100)
    assert ids[1] == (S, *range(8), D, *(60,) * 8, E)
    assert ids[0] == (S, *range(8), D, 50, E)


PARTS = st.lists(st.lists(st.integers(0, 99), max_size=20).map(tuple), min_size=3, max_size=5)


@given(PARTS, st.integers(MIN_LEN, 30), st.sampled_from(["entailment", "similarity", "choice"]))
def test_sequences_fit_and_keep_what_marks_them(
    parts: list[tuple[int, ...]], max_len: int, form: str
) -> None:
    task = config("multiple_choice" if form == "choice" else form, max_len=max_len)
    given_parts = tuple(parts if form == "choice" else parts[:2])
    for ids in sequences(task, given_parts, 100):
        assert len(ids) <= max_len
        assert (ids[0], ids[-1], ids.count(D)) == (S, E, 1)
        assert len(ids) >= min(max_len - 1, 3 + min(map(len, given_parts)))
        texts = ids[1 : ids.index(D)], ids[ids.index(D) + 1 : -1]
        assert all(any(part[: len(text)] == text for part in given_parts) for text in texts)


@pytest.mark.parametrize(
    ("form", "num_parts", "message"),
    [
        ("classification", 2, "classification needs exactly 1 texts, got 2"),
        ("entailment", 1, "entailment needs exactly 2 texts, got 1"),
        ("similarity", 3, "similarity needs exactly 2 texts, got 3"),
        ("multiple_choice", 2, "multiple_choice needs at least 2 choices, got 1"),
        ("multiple_choice", 0, "multiple_choice needs at least 2 choices, got 0"),
    ],
)
def test_parts_of_another_form(form: str, num_parts: int, message: str) -> None:
    with pytest.raises(TaskInputError) as caught:
        sequences(config(form), ((1,),) * num_parts, 100)
    assert str(caught.value) == message


def test_classes_get_probabilities() -> None:
    answer = outcome(config("classification"), [[1000.0, 1000.0 + math.log(3)]])
    assert answer.label == "yes"
    assert answer.score == answer.probabilities["yes"] == pytest.approx(0.75)
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert outcome(config("entailment"), [[2.0, 2.0]]).label == "no"  # of equals the first


def test_both_orders_of_a_similarity_add_up_in_any_order() -> None:
    rows = [[0.1, 0.7], [0.3, 1e-9]]
    answer = outcome(config("similarity"), rows)
    assert answer == outcome(config("similarity"), rows[::-1])
    assert answer.score == pytest.approx(1 / (1 + math.exp(0.4 - 0.7)))


def test_choices_compete_with_each_other() -> None:
    answer = outcome(config("multiple_choice"), [[0.0], [math.log(2)], [0.0]])
    assert answer.label == "1"
    assert answer.score == pytest.approx(0.5)
    assert [*answer.probabilities] == ["0", "1", "2"]


@pytest.mark.parametrize(("share", "score"), [(0.25, 2.0), (1.5, 5.0), (-3.0, 1.0)])
def test_a_regression_maps_its_output_to_the_range(share: float, score: float) -> None:
    task = config("similarity", **{**REGRESSION, "score_range": (1.0, 5.0)})
    answer = outcome(task, [[share / 2], [share / 2]])
    assert (answer.label, answer.score, answer.probabilities) == (None, score, {})


@pytest.mark.parametrize(
    "task",
    [
        config("classification", pooling="last"),
        config("similarity", **REGRESSION, join="concatenate"),
        config("multiple_choice"),
    ],
)
def test_a_config_survives_its_plain_values(task: TaskConfig) -> None:
    assert TaskConfig.from_dict(task.to_dict()) == task
    assert task.num_outputs == (2 if task.labels else 1)


@pytest.mark.parametrize(
    ("form", "changes", "problems"),
    [
        ("riddle", {}, ["form must be one of classification, entailment, similarity"]),
        ("entailment", {"max_len": 4}, ["max_len must be at least 5, got 4"]),
        ("entailment", {"max_len": True}, ["max_len must be a whole number, got True"]),
        ("entailment", {"labels": ("a",)}, ["labels must be 2 to 10,000 for entailment, got 1"]),
        ("entailment", {"labels": ("a", "")}, ["labels must be texts that are not empty"]),
        ("entailment", {"labels": ("a", "b", "a")}, ["labels must differ, got ['a']"]),
        ("multiple_choice", {"labels": ("a", "b")}, ["labels must be empty for multiple_choice"]),
        ("classification", {"join": "sum"}, ["join is only for similarity, got 'sum'"]),
        ("similarity", {"join": None}, ["join must be one of sum, concatenate for similarity"]),
        ("similarity", {"join": "product"}, ["join must be one of None, sum, concatenate"]),
        ("entailment", {"pooling": "last"}, ["pooling last is only for classification"]),
        ("entailment", {"score_range": (0.0, 1.0)}, ["score_range is only for a regression"]),
        ("similarity", {**REGRESSION, "score_range": None}, ["score_range is missing"]),
        ("similarity", {**REGRESSION, "score_range": (5.0, 0.0)}, ["score_range must be two"]),
        ("similarity", {**REGRESSION, "score_range": (0.0, math.inf)}, ["score_range must be"]),
        ("similarity", {**REGRESSION, "labels": ("a",)}, ["labels must be empty for a regression"]),
        (
            "multiple_choice",
            {"is_regression": True, "join": "sum"},
            ["is_regression must be false", "score_range is missing", "join is only for"],
        ),
    ],
)
def test_impossible_configs_name_every_problem(
    form: str, changes: dict[str, Any], problems: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        config(form, **changes)
    assert len(caught.value.problems) == len(problems)
    for found, wanted in zip(caught.value.problems, problems, strict=True):
        assert found.startswith(wanted)


def test_plain_values_of_another_shape_are_refused() -> None:
    values = config("classification").to_dict()
    del values["join"]
    with pytest.raises(ConfigError) as caught:
        TaskConfig.from_dict({**values, "colour": 1, "labels": "yes", "score_range": 3})
    assert caught.value.problems == [
        "unknown field 'colour'",
        "missing field 'join'",
        "labels must be a list, got 'yes'",
        "score_range must be a list, got 3",
    ]
