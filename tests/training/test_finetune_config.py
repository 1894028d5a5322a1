"""What FinetuneConfig refuses, all of it in one message, and what makes two runs the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.errors import TrainingError
from training.finetune_config import FinetuneConfig

RANGE = (0.0, 5.0)


def config(**values: Any) -> FinetuneConfig:
    given: dict[str, Any] = {
        "form": "classification",
        "data": Path("d.tsv"),
        "out": Path("runs/o"),
        "start_from": Path("s"),
        "dev": Path("v.tsv"),
    }
    return FinetuneConfig(**{**given, **values})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"transfer_layers": -1}, "transfer_layers must be a whole number of at least 0, got -1"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number above 0, got nan"),
        ({"lm_coef": -0.5}, "lm_coef must be a number of at least 0, got -0.5"),
        ({"warmup_share": 1.0}, "warmup_share must be at least 0 and below 1, got 1.0"),
        ({"dev": None, "dev_share": 1.0}, "dev_share must be between 0 and 1, got 1.0"),
        ({"form": "riddle"}, "form must be one of classification, entailment, similarity, "
                             "multiple_choice, got 'riddle'"),
        ({"join": "product"}, "join must be one of sum, concatenate, got 'product'"),
        ({"train": "some"}, "train must be one of full, lora, head, got 'some'"),
        ({"metric": "bleu"}, "metric must be one of accuracy, f1, matthews, pearson, spearman, "
                             "got 'bleu'"),
        ({"metric": "pearson"}, "metric must be one of accuracy, f1, matthews here, "
                                "got 'pearson'"),
        ({"dev": None}, "exactly one of dev and dev_share must be given, got none"),
        ({"dev_share": 0.1}, "exactly one of dev and dev_share must be given, got both"),
        ({"text": ("a", "b")}, "text must name 1 columns for classification, got 2"),
        ({"form": "multiple_choice", "text": ("a", "b")},
         "text must name the context and at least 2 choices, got 2 columns"),
        ({"columns": ("text", "y")}, "there is no column 'label', only text, y"),
        ({"join": "sum"}, "join is only for similarity, got 'sum' for classification"),
        ({"form": "multiple_choice", "score_range": RANGE},
         "score_range and label_names are not for multiple_choice"),
        ({"score_range": RANGE, "label_names": ("0=a",)},
         "label_names are of classes, a score_range is of numbers: give only one of them"),
        ({"score_range": (5.0, 5.0)}, "score_range must be two numbers, the lower first, "
                                      "got (5.0, 5.0)"),
        ({"label_names": ("0",)}, "label_names must be pairs WRITTEN=NAME, got '0'"),
        ({"train": "lora", "transfer_layers": 1}, "transfer_layers is only for train full, got 1"),
        ({"train": "lora", "lora_targets": ("wpe",)},
         "lora targets must be some of attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj, wte, "
         "got ('wpe',)"),
    ],
)  # fmt: skip
def test_impossible_values_are_refused_by_name(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(TrainingError) as caught:
        config(**changes)
    assert caught.value.problems == [problem]


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(TrainingError) as caught:
        config(batch_size=0, grad_clip=-1, dtype="int8", dropout=1)
    assert [problem.split()[0] for problem in caught.value.problems] == [
        *("batch_size", "grad_clip", "dropout", "dtype"),
    ]


def test_the_defaults_are_the_papers() -> None:
    """GPT paper, section 4.1."""
    made = config()
    assert (made.learning_rate, made.batch_size, made.num_epochs) == (6.25e-5, 32, 3)
    assert (made.warmup_share, made.dropout, made.lm_coef) == (0.002, 0.1, 0.5)
    assert (made.grad_clip, made.weight_decay) == (1.0, 0.01)


def test_what_depends_on_the_rest() -> None:
    assert config().task_name == "o"
    assert config().chosen_metric == "accuracy"
    assert config(score_range=RANGE).chosen_metric == "pearson"
    similar = config(form="similarity", text=("a+c", "b"))
    assert similar.chosen_join == "sum"
    assert similar.layout.text == (("a", "c"), ("b",))
    assert similar.layout.wanted == ("a", "c", "b", "label")
    assert config().lora is None


def test_what_may_change_when_a_run_goes_on() -> None:
    same = config().identity()
    others = {"out": Path("elsewhere/o"), "num_threads": 2, "checkpoint_s": 1.0, "baseline": True}
    assert config(**others).identity() == same
    assert config(text=("text",), metric="accuracy").identity() == same
    changes: list[dict[str, Any]] = [{"seed": 1}, {"lm_coef": 0.0}, {"name": "x"}]
    for change in changes:
        assert config(**change).identity() != same
