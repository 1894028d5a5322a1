"""The task that is served out of the box."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.tokenizer import Tokenizer
from training.task_batches import encode
from training.task_data import Example
from training.task_network import TaskNetwork
from training.task_scores import answers
from weights.checkpoint import open_checkpoint
from weights.task import open_task

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
FOLDER = WEIGHTS / "bundled_tasks" / "sentiment"
MAX_BYTES = 2_000_000


def test_it_goes_with_the_bundled_decoder_and_tells_good_from_bad() -> None:
    if not (FOLDER / "task.json").exists():
        pytest.skip("no task is bundled")
    trunk = open_checkpoint(WEIGHTS / "bundled")
    task = open_task(FOLDER, trunk)
    config, lora = task.description.config, task.description.lora
    assert config.labels == ("negative", "positive")
    network = TaskNetwork(trunk.config, config, lora, dropout=0.0, seed=0)
    network.load_task(task, trunk)
    texts = ("a great and moving film", "a dull , stupid mess")
    rows = [Example("here", (text,), "") for text in texts]
    tokenizer = Tokenizer.from_directory(trunk.path)
    examples = encode(rows, [0.0] * 2, config, tokenizer, trunk.config.vocab_size)
    found = answers(network, examples, torch.float32)
    assert [answer.label for answer in found] == ["positive", "negative"]


def test_it_is_small_and_has_a_card() -> None:
    if not FOLDER.exists():
        pytest.skip("no task is bundled")
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < MAX_BYTES
    assert (FOLDER / "MODEL_CARD.md").exists()
