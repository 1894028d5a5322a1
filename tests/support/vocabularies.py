"""Small vocabularies, trained or crafted, for tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import (
    ByteLevelBPETokenizer,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

CORPUS = ["the cat sat on the mat, that cat!", "aaaa aaa aaaaaaa", "naïve café 世界 12 123"] * 20


def trained(special_tokens: list[str] | None = None, vocab_size: int = 320) -> Any:
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        CORPUS, vocab_size=vocab_size, special_tokens=special_tokens or [], show_progress=False
    )
    return tokenizer


def saved(tokenizer: Any, path: Path) -> Path:
    path.mkdir(exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def edited(path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    file = path / "tokenizer.json"
    values = json.loads(file.read_text("utf-8"))
    edit(values)
    file.write_text(json.dumps(values), "utf-8")
    return path


def crafted(merges: list[tuple[str, str]], path: Path) -> Any:
    """A vocabulary with just these merges, in tokenizers and on disk."""
    alphabet = sorted(trained(vocab_size=256).get_vocab())
    tokens = dict.fromkeys([*alphabet, *(a + b for a, b in merges)])
    vocab = {token: id_ for id_, token in enumerate(tokens)}
    other = ByteLevelBPETokenizer(vocab=vocab, merges=merges)
    saved(other, path)
    return other


def words(path: Path, vocab_size: int = 120) -> Any:
    """The first GPT's kind, as OpenAI's two files in ``path``; and in tokenizers."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<unk>"],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    path.mkdir(exist_ok=True)
    model = json.loads(tokenizer.to_str())["model"]
    (path / "encoder_bpe_40000.json").write_text(json.dumps(model["vocab"]), "utf-8")
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    (path / "vocab_40000.bpe").write_text(f"#version: 0.2\n{merges}", "utf-8")
    return tokenizer
