"""The vocabulary that training makes, read back by the tokenizer that serves it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer as ReferenceTokenizer

from model.tokenizer import Tokenizer
from training.bpe import END_OF_TEXT, train_bpe

TEXT = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the "
    "age of foolishness, it was the epoch of belief, it was the epoch of incredulity. "
) * 20


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    train_bpe([TEXT, "Le\u00e7on un.\r\n\r\n\tEt deux."], 320, tmp_path / "vocabulary")
    return tmp_path / "vocabulary"


def test_end_of_text_is_the_last_of_as_many_as_asked_for(vocabulary: Path) -> None:
    tokenizer = Tokenizer.from_directory(vocabulary)
    assert tokenizer.vocab_size == 320
    assert tokenizer.special_tokens == {END_OF_TEXT: 319}
    assert len(tokenizer.encode(" times")) == 1


@pytest.mark.parametrize(
    "text",
    [TEXT, "", "\x00\x7f", "  two  spaces \n\n\n lines\r\n", "\u4f60\u597d \U0001f600 e\u0301"],
)
def test_round_trip_and_the_ids_of_the_library(vocabulary: Path, text: str) -> None:
    tokenizer = Tokenizer.from_directory(vocabulary)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids == ReferenceTokenizer.from_file(str(vocabulary / "tokenizer.json")).encode(text).ids


def test_bytes_come_first_then_merges_in_their_order(vocabulary: Path) -> None:
    """What tiktoken takes as ranks: the id of a merge is 256 and its number."""
    tokenizer = Tokenizer.from_directory(vocabulary)
    assert all(len(tokenizer.token_bytes(i)) == 1 for i in range(256))
    assert all(len(tokenizer.token_bytes(i)) > 1 for i in range(256, 319))
