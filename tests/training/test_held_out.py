"""Bits per byte: every byte counted once, every token predicted once."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from model.attention import CausalAttention
from model.config import GPTConfig
from model.decoder import GPT
from model.tokenizer import Tokenizer
from training.bpe import END_OF_TEXT, train_bpe
from training.documents import Document
from training.held_out import HeldOut, Score
from training.optimizer import initialise

TEXT = "The caf\u00e9 was \u2014 as ever \u2014 full of captains.\r\n" * 12


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    train_bpe([TEXT], 270, tmp_path)
    return Tokenizer.from_directory(tmp_path)


@pytest.fixture
def model() -> GPT:
    model = GPT(
        GPTConfig(
            vocab_size=270, num_positions=32, num_channels=16, num_layers=1, num_heads=1,
            num_inner=64,
        )
    )  # fmt: skip
    initialise(model, seed=0)
    with torch.no_grad():
        model.wte.weight.mul_(20)  # far from uniform
    return model


def held_out(tokenizer: Tokenizer) -> HeldOut:
    return HeldOut([Document("a.txt", TEXT)], tokenizer, tokenizer.special_tokens[END_OF_TEXT])


def test_score_is_the_sum_over_windows(tokenizer: Tokenizer, model: GPT) -> None:
    (score,) = held_out(tokenizer).score(model, torch.float32)
    ids = torch.tensor([269, *tokenizer.encode(TEXT)])
    nats = 0.0
    for start in range(0, len(ids) - 1, 32):
        inputs, targets = ids[start:-1][:32], ids[start + 1 :][:32]
        attend = CausalAttention(model.config, len(inputs))
        hidden = model(inputs, torch.arange(len(inputs)), attend)
        nats += F.cross_entropy(model.logits(hidden), targets, reduction="sum").item()
    assert score.nats == pytest.approx(nats, rel=1e-5)
    assert score.num_tokens == len(ids) - 1
    assert score.num_bytes == len(TEXT.encode())
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / len(TEXT.encode()))


def test_a_sample_counts_the_bytes_of_its_own_tokens(tokenizer: Tokenizer, model: GPT) -> None:
    (score,) = held_out(tokenizer).score(model, torch.float32, max_windows=2)
    assert score.num_tokens == 64
    assert score.num_bytes == len(tokenizer.decode_bytes(tokenizer.encode(TEXT)[:64]))


def test_a_special_token_written_in_a_text_counts_as_written(
    tokenizer: Tokenizer, model: GPT
) -> None:
    document = Document("b.txt", f"One.{END_OF_TEXT}Two.")
    (score,) = HeldOut([document], tokenizer, 269).score(model, torch.float32)
    assert score.num_bytes == len(document.text)


def test_dropout_is_off_while_scoring_and_on_again(tokenizer: Tokenizer, model: GPT) -> None:
    noisy = GPT(model.config, dropout=0.5)
    noisy.load_state_dict(model.state_dict())
    scored = held_out(tokenizer).score(noisy, torch.float32)
    assert scored == held_out(tokenizer).score(model, torch.float32)
    assert noisy.training


def test_total_weighs_texts_by_their_bytes() -> None:
    total = Score.total([Score("a", 10.0, 5, 20), Score("b", 2.0, 1, 80)])
    assert total == Score("all", 12.0, 6, 100)
    assert total.bits_per_byte == pytest.approx(0.12 / math.log(2))
