"""The files of vocabularies, in every layout; what opens must also encode and decode."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from model.tokenizer import Tokenizer, TokenizerError
from tests.fuzz.target import Folder, folder_target, parts_of
from tests.fuzz.weight_targets import encoded
from tests.support.vocabularies import trained, words

TEXTS = ("", "the cat<|endoftext|> sat", " 世界\r\n\t café 12", "a" * 50 + " " * 50)
END = "<|endoftext|>"


def open_and_use(path: Path) -> None:
    """Raises TokenizerError from the first line only."""
    tokenizer = Tokenizer.from_directory(path)
    for text in TEXTS:
        tokenizer.decode(tokenizer.encode(text))


def folder_of(files: Mapping[str, bytes], *names: str) -> Folder:
    """A vocabulary of ``files``, of which ``names`` are fuzzed."""
    return Folder(files, parts_of(files, *names), open_and_use, (TokenizerError,))


@cache
def byte_level() -> dict[str, bytes]:
    """One of 262 tokens: tokenizer.json, and beside it what transformers writes."""
    tokenizer = trained([END], vocab_size=262)
    described = {"content": END, "lstrip": False, "normalized": False, "special": True}
    config = {
        "add_prefix_space": False,
        "tokenizer_class": "GPT2Tokenizer",
        "added_tokens_decoder": {"0": described},
        "eos_token": END,
    }
    return {
        "tokenizer.json": tokenizer._tokenizer.to_str().encode(),
        "tokenizer_config.json": encoded(config),
        "added_tokens.json": encoded({"<|pad|>": 300}),
        "special_tokens_map.json": encoded({"eos_token": described, "pad_token": "<|pad|>"}),
    }


@cache
def pair(vocabulary: str, merges: str) -> dict[str, bytes]:
    """The same as a table of ids and a list of merges."""
    model = json.loads(byte_level()["tokenizer.json"])["model"]
    lines = [" ".join(one) if isinstance(one, list) else one for one in model["merges"]]
    listed = "\n".join(["#version: 0.2", *lines, ""])
    return {vocabulary: encoded(model["vocab"]), merges: listed.encode()}


@cache
def gpt_files() -> dict[str, bytes]:
    """The first GPT's kind, as OpenAI wrote it and as tokenizers does."""
    with tempfile.TemporaryDirectory(prefix="fuzz") as parent:
        tokenizer = words(Path(parent))
        files = {file.name: file.read_bytes() for file in sorted(Path(parent).iterdir())}
    return {**files, "tokenizer.json": tokenizer.to_str().encode()}


@cache
def tokenizer_json() -> Folder:
    """What the current transformers writes."""
    return folder_of(byte_level())


@cache
def encoder_bpe() -> Folder:
    """What OpenAI wrote for GPT-2."""
    return folder_of(pair("encoder.json", "vocab.bpe"))


@cache
def vocab_merges() -> Folder:
    """What older versions of transformers wrote."""
    beside = {name: byte_level()[name] for name in ("tokenizer_config.json", "added_tokens.json")}
    return folder_of({**pair("vocab.json", "merges.txt"), **beside})


@cache
def gpt_words() -> Folder:
    """The first GPT's tokenizer.json."""
    return folder_of({"tokenizer.json": gpt_files()["tokenizer.json"]})


@cache
def gpt_pair() -> Folder:
    """The first GPT's two files."""
    pair_alone = {name: value for name, value in gpt_files().items() if "40000" in name}
    return folder_of(pair_alone)


VOCABULARY_TARGETS = tuple(
    folder_target(folder)
    for folder in (tokenizer_json, encoder_bpe, vocab_merges, gpt_words, gpt_pair)
)
