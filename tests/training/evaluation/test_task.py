"""A task that was saved answers as fine-tuning said that it does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from model.tokenizer import Tokenizer
from tests.training.tiny_run import tiny_config, write_corpus
from tests.training.tiny_task import FORMS, tiny_task, write_tasks, write_tsv
from training.errors import TrainingError
from training.evaluation.task import evaluate_task
from training.finetune import finetune
from training.pretrain import pretrain
from weights.convert_task import convert_classifier

ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks, and a decoder of one layer that knows nothing."""
    path = tmp_path_factory.mktemp("tasks-evaluated")
    write_corpus(path / "corpus")
    pretrain(tiny_config(path, num_steps=1, num_threads=1, window_len=64))
    write_tasks(path / "tasks")
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(folder: Path, form: str, **changes: Any) -> tuple[Path, Any, str]:
    """Where a task lies, what fine-tuning reported, and the file it was reported of."""
    out = folder / f"run-{form}-{len(changes)}"
    trunk = folder / "run" / "checkpoint"
    config = tiny_task(folder, trunk, form, out=out, num_epochs=1, **changes)
    return out / "task", finetune(config), str(config.dev)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_metrics_that_fine_tuning_reported(folder: Path, form: str) -> None:
    task, report, dev = trained(folder, form)
    found = evaluate_task(task, folder / "nowhere", [dev])  # it has a decoder of its own
    assert found.metrics[dev] == pytest.approx(report.dev, abs=1e-9)
    assert found.num_examples == {dev: 32}
    assert found.lines()[2].split() == ["on", "examples", "measure", "measured"]
    (result,) = found.to_dict()["results"]
    assert result["metrics"] == found.metrics[dev]


def test_lora_is_answered_on_the_decoder_that_it_was_trained_on(folder: Path) -> None:
    names = {"train": "lora", "label_names": ("0=bad", "1=good")}
    task, report, dev = trained(folder, "classification", **names)
    trunk = folder / "run" / "checkpoint"
    assert evaluate_task(task, trunk, [dev]).metrics[dev] == pytest.approx(report.dev, abs=1e-9)
    with pytest.raises(TrainingError, match="nowhere does not exist"):
        evaluate_task(task, folder / "nowhere", [dev])
    bad = folder / "bad.tsv"
    bad.write_text("a cat\t2\nno label\n")
    with pytest.raises(TrainingError) as caught:
        evaluate_task(task, trunk, [str(bad), str(folder / "none.tsv")])
    assert caught.value.problems == [
        f"{bad}:2: has 1 fields, there are 2 columns",
        f"{bad}:1: label must be one of 0, 1, got '2'",
        f"{folder / 'none.tsv'}: No such file or directory",
    ]


def test_scores_lie_in_the_range_that_the_task_has(folder: Path) -> None:
    task, _, _ = trained(folder, "similarity", seed=1)
    (folder / "high.csv").write_text("a,b,score\nx,y,5\nx,y,7\n")
    with pytest.raises(TrainingError, match=r"high\.csv:3: label must be from 1 to 5, got 7"):
        evaluate_task(task, folder / "nowhere", [str(folder / "high.csv")])


def test_a_converted_classifier_answers_as_transformers_does(folder: Path) -> None:
    """Its labels are its own names, its columns text and label."""
    torch.manual_seed(3)
    names = {0: "sad", 1: "glad", 2: "mixed"}
    sizes = {"n_layer": 2, "n_embd": 64, "n_head": 1, "n_positions": 32, "vocab_size": 300}
    theirs = GPT2ForSequenceClassification(
        GPT2Config(**sizes, id2label=names, **dict.fromkeys(ENDS, 299))
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(8)  # biases are zero: other ones would give every text the same class
    theirs.save_pretrained(folder / "hf")
    vocabulary = folder / "run" / "checkpoint"
    task = convert_classifier(folder / "hf", folder / "converted", vocabulary=vocabulary)
    texts = [f"the cat is {word}" for word in ("bad", "a ship", "seen", "very good", "Q", "7")]
    tokenizer = Tokenizer.from_directory(vocabulary)
    with torch.no_grad():
        chosen = [
            names[int(theirs(torch.tensor([tokenizer.encode(text)])).logits.argmax())]
            for text in texts
        ]
    assert len({*chosen}) > 1
    other = {"sad": "glad", "glad": "mixed", "mixed": "sad"}
    labels = [other[chosen[0]], *chosen[1:]]
    path = write_tsv(folder / "texts.tsv", [("text", "label"), *zip(texts, labels, strict=True)])
    found = evaluate_task(task.path, folder / "nowhere", [str(path)])
    assert found.metrics[str(path)]["accuracy"] == pytest.approx(5 / 6)
    bad = write_tsv(folder / "sst.tsv", [("text", "label"), ("a cat", "1")])
    with pytest.raises(TrainingError, match="label must be one of sad, glad, mixed, got '1'"):
        evaluate_task(task.path, folder / "nowhere", [str(bad)])


def test_what_is_no_task_is_named(folder: Path) -> None:
    with pytest.raises(TrainingError, match="nothing does not exist"):
        evaluate_task(folder / "nothing", folder / "run" / "checkpoint", ["x.tsv"])
