"""transformers' classifiers: the same logits, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2ForSequenceClassification

from model.attention import CausalAttention
from model.network import gpt_with
from model.tasks import sequences
from server.cli import main
from weights.checkpoint import CheckpointError
from weights.convert_task import convert_classifier
from weights.formats.hf_classifier import is_hf_classifier
from weights.task import Task

IDS = (3, 17, 29, 0, 8, 8, 21)


def write(path: Path, **options: Any) -> GPT2ForSequenceClassification:
    """Every parameter random: ones and zeros would hide a swapped gain or bias."""
    torch.manual_seed(3)
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 12, "vocab_size": 30}
    names = {0: "sad", 1: "glad", 2: "mixed"}
    config = GPT2Config(**sizes, **{"id2label": names, "pad_token_id": 29, **options})
    model = GPT2ForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.save_pretrained(path)
    return model


def logits(task: Task, ids: tuple[int, ...]) -> torch.Tensor:
    """As they are served: through the task's own trunk, and its head."""
    trunk = task.own_trunk
    assert trunk is not None
    (row,) = sequences(task.description.config, (ids,), trunk.config.vocab_size)
    gpt = gpt_with(trunk.config, trunk.tensors)
    attend = CausalAttention(trunk.config, len(row))
    hidden = gpt(torch.tensor(row), torch.arange(len(row)), attend)
    return task.head.logits(hidden[-1:], (0,))[0]


def test_logits_are_those_of_transformers(tmp_path: Path) -> None:
    model = write(tmp_path / "hf")
    assert is_hf_classifier(tmp_path / "hf")
    task = convert_classifier(tmp_path / "hf", tmp_path / "ours")
    for ids in (IDS, IDS[:1], IDS * 2):
        kept = ids[:12]
        # Beside another row, with padding behind it.
        padded = torch.tensor([[*kept, *[29] * (12 - len(kept))], [5] * 12])
        with torch.no_grad():
            expected = model(padded).logits[0]
        error = (logits(task, ids) - expected).abs().max() / expected.abs().max()
        assert error < 1e-5
    assert task.description.config.labels == ("sad", "glad", "mixed")
    assert task.description.config.pooling == "last"
    assert task.description.name == "ours"
    assert task.special is None
    assert task.source["origin"] == str(tmp_path / "hf")


def test_to_another_dtype(tmp_path: Path) -> None:
    write(tmp_path / "hf")
    task = convert_classifier(tmp_path / "hf", tmp_path / "ours", "bfloat16", origin="somewhere")
    assert task.own_trunk is not None
    assert {t.dtype for t in task.own_trunk.tensors.values()} == {torch.bfloat16}
    assert task.source["origin"] == "somewhere"


def problems(path: Path) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        convert_classifier(path, path.with_name("ours"))
    assert not path.with_name("ours").exists()
    first, *rest = caught.value.problems
    return [first.removeprefix(f"{path}: "), *rest]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"problem_type": "regression"}, "problem_type 'regression' is not supported, only "
                                         "single_label_classification is"),
        ({"id2label": {"0": "a"}}, "a classifier with one label is a regression, which is not "
                                   "supported"),
        ({"id2label": {"0": "a", "7": "b"}}, "id2label must count from 0 to 1, got 0, 7"),
        ({"id2label": ["a", "b"]}, "id2label must be an object of ids and texts"),
        ({"id2label": {"0": "a", "1": "b"}}, "tensor score.weight has shape (3, 16), expected "
                                             "(2, 16)"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "labels must differ, got ['a'] more than "
                                                       "once"),
        ({"add_cross_attention": True}, "add_cross_attention is not supported"),
    ],
)  # fmt: skip
def test_configurations_that_are_refused(
    tmp_path: Path, values: dict[str, Any], problem: str
) -> None:
    write(tmp_path / "hf")
    file = tmp_path / "hf" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    assert problems(tmp_path / "hf") == [problem]


def test_tensors_that_are_not_there(tmp_path: Path) -> None:
    write(tmp_path / "hf")
    file = tmp_path / "hf" / "model.safetensors"
    tensors = load_file(file)
    del tensors["score.weight"]
    save_file(tensors, file)
    assert problems(tmp_path / "hf") == ["tensor score.weight is missing"]
    tensors["classifier.weight"] = torch.zeros(2)
    del tensors["transformer.ln_f.bias"]
    save_file(tensors, file)
    assert problems(tmp_path / "hf") == [
        "tensor classifier.weight is a task head, which is not supported",
        "tensor ln_f.bias is missing",
    ]


def test_the_command_makes_a_task_of_a_classifier(tmp_path: Path) -> None:
    write(tmp_path / "hf")
    source, dest = str(tmp_path / "hf"), str(tmp_path / "ours")
    told = CliRunner().invoke(main, ["convert", source, dest, "--quantize", "int8"])
    assert told.exit_code == 2
    assert "is a classifier" in told.output
    told = CliRunner().invoke(main, ["convert", source, dest])
    assert told.output == (
        f"{dest}: a task for `serve --task NAME={dest}`, which answers sad, glad, mixed\n"
    )
    assert not is_hf_classifier(tmp_path / "ours" / "trunk")
