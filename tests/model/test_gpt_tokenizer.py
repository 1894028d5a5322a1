"""The first GPT's words against transformers' OpenAIGPTTokenizer, on its own vocabulary."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import OpenAIGPTTokenizer

from model.tokenizer import Tokenizer, TokenizerError
from server.text import TextStream, compile_stops
from tests.support.vocabularies import saved, trained, words
from weights.vocabulary import vocabulary_files

OPENAI = ("encoder_bpe_40000.json", "vocab_40000.bpe")
HF = ("vocab.json", "merges.txt")

CRAFTED = [
    "",
    " ",
    "\n\n",
    "Hello, WORLD!",
    "don't can't I'll we've",
    "don\u2019t \u201cquoted\u201d \u2014 dash \u2013 and\u2026",
    "naïve CAFÉ Ångström İstanbul ẞ ǅ",
    "世界 混ざった text 東京",
    "x\ty\r\nz\u3000w\u00a0v",
    "a\u200bb \ufeffc \x00d\x07 e\u00ad f",
    "<unk> a<unk>b <UNK> < unk >",
    "</w> the</w> @-@ __init__ a_b",
    "12 123 1,234.5 $100 50% 3+4=7 #1 a&b",
    "☃ na☃ve ♥♫ 🙂 e\u0301 \u0301",
    "(((nested)))[[x]]{{y}} ... !!! ??? -- ---",
    "http://example.com/a?b=c&d user@example.com",
    "Ω ω Привет мир שלום مرحبا ไทย",
    "a" * 500,
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
]


@pytest.fixture(scope="module")
def gpt_dir(shared_data: Path) -> Path:
    return shared_data / "vocab" / "gpt"


@pytest.fixture(scope="module")
def gpt(gpt_dir: Path) -> Tokenizer:
    return Tokenizer.from_directory(gpt_dir)


@pytest.fixture(scope="module")
def theirs(gpt_dir: Path) -> Any:
    vocab, merges = (str(gpt_dir / name) for name in OPENAI)
    return OpenAIGPTTokenizer(vocab=vocab, merges=merges)


@pytest.fixture(scope="module")
def small_words(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A small vocabulary, on disk and in tokenizers. Each training gives other ids."""
    path = tmp_path_factory.mktemp("words")
    return path, words(path)


@pytest.fixture(scope="module")
def small_dir(small_words: tuple[Path, Any]) -> Path:
    return small_words[0]


@pytest.fixture(scope="module")
def small(small_dir: Path) -> Tokenizer:
    return Tokenizer.from_directory(small_dir)


def their_ids(theirs: Any, text: str) -> list[int]:
    ids: list[int] = theirs(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def varied_lines(shared_data: Path) -> list[str]:
    """Wikipedia, novels and crafted ones, 219 altogether."""
    wiki = (shared_data / "lm/wikitext2/wiki.test.raw").read_text("utf-8").split("\n")
    play = (shared_data / "corpora/tinyshakespeare.txt").read_text("utf-8").split("\n")
    return [*[line for line in wiki if line.strip()][:100], *play[:100], *CRAFTED]


def test_ids_are_those_of_transformers(gpt: Tokenizer, theirs: Any, shared_data: Path) -> None:
    lines = varied_lines(shared_data)
    assert len(lines) > 200
    assert gpt.vocab_size == 40_478
    for line in lines:
        assert gpt.encode(line) == their_ids(theirs, line), line


def test_text_is_that_of_transformers(gpt: Tokenizer, theirs: Any, shared_data: Path) -> None:
    """But for the space behind the last word, which a stream has brought by then."""
    for line in varied_lines(shared_data):
        ids = gpt.encode(line)
        assert gpt.decode(ids).removesuffix(" ") == theirs.decode(ids).removesuffix(" ")


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_any_text_gives_the_ids_of_tokenizers(
    text: str, small: Tokenizer, small_words: tuple[Path, Any]
) -> None:
    assert small.encode(text) == small_words[1].encode(text).ids


def test_a_lone_surrogate_is_refused(small: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"lone surrogate, U\+D800, at character 1"):
        small.encode("a\ud800")


def test_a_token_is_its_text_and_a_space_where_a_word_ends(small: Tokenizer) -> None:
    ids = small.encode("The CAT sat; <unk>")
    assert small.decode_bytes(ids) == b"the cat sat <unk><unk>"
    assert small.token_bytes(small.encode("the")[-1]).endswith(b" ")
    assert small.special_tokens == {"<unk>": 0}
    with pytest.raises(KeyError):
        small.token_bytes(small.vocab_size)


def test_a_stream_is_the_text_however_it_is_cut(small: Tokenizer) -> None:
    ids = small.encode("the cat sat on the mat, that naïve café cat!") * 3
    stream = TextStream(compile_stops(["never there"]))
    pieces = [stream.push(small.token_bytes(id_)) for id_ in ids]
    assert "".join(pieces) + stream.end() == small.decode(ids)
    stopped = TextStream(compile_stops(["mat , "]))
    text = "".join(stopped.push(small.token_bytes(id_)) for id_ in ids) + stopped.end()
    assert text == small.decode(ids).partition("mat , ")[0]


def renamed(source: Path, dest: Path) -> Path:
    dest.mkdir()
    for ours, name in zip(OPENAI, HF, strict=True):
        shutil.copy(source / ours, dest / name)
    return dest


def test_every_layout_gives_the_same_tokenizer(
    small: Tokenizer, small_dir: Path, small_words: tuple[Path, Any], tmp_path: Path
) -> None:
    text = "the cat <unk> naïve 123"
    pair = renamed(small_dir, tmp_path / "pair")
    vocab, merges = (str(pair / name) for name in HF)
    OpenAIGPTTokenizer(vocab=vocab, merges=merges).save_pretrained(tmp_path / "hf")
    assert (tmp_path / "hf" / "tokenizer.json").exists()
    described = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    described["do_lower_case"] = True  # as older ones are
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps(described))
    bare = saved(small_words[1], tmp_path / "bare")
    for path in (pair, tmp_path / "hf", bare):
        other = Tokenizer.from_directory(path)
        assert other.encode(text) == small.encode(text)
        assert other.special_tokens == {"<unk>": 0}
    assert [file.name for file in vocabulary_files(small_dir)] == [*OPENAI]


def test_byte_level_is_told_from_words(tmp_path: Path) -> None:
    """By the space, even where a token is spelled like the end of a word."""
    tokenizer = trained()
    tokenizer.save_model(str(tmp_path))
    vocab = json.loads((tmp_path / "vocab.json").read_text())
    vocab["</w>"] = len(vocab)
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    assert not Tokenizer.from_directory(tmp_path).is_of_words


Edit = Callable[[dict[str, Any]], object]
REFUSED: dict[str, tuple[Edit, str]] = {
    "case": (
        lambda v: v["normalizer"].update(lowercase=False),
        "normalizer has lowercase False, only True is supported",
    ),
    "accents": (lambda v: v["normalizer"].update(strip_accents=False), "strip_accents False"),
    "no normalizer": (lambda v: v.update(normalizer=None), "normalizer must be BertNormalizer"),
    "cut": (
        lambda v: v.update(pre_tokenizer={"type": "Whitespace"}),
        "pre_tokenizer has type 'Whitespace', only 'BertPreTokenizer'",
    ),
    "decoder": (lambda v: v["decoder"].update(suffix="@@"), "decoder has suffix '@@'"),
    "post": (lambda v: v.update(post_processor={"type": "X"}), "post-processor X adds tokens"),
    "unknown": (lambda v: v["model"].update(unk_token="[UNK]"), "unk_token '[UNK]', only '<unk>'"),
    "fused": (lambda v: v["model"].update(fuse_unk=True), "fuse_unk True"),
    "dropout": (lambda v: v["model"].update(dropout=0.1), "dropout 0.1"),
    "no unk": (lambda v: v["model"]["vocab"].pop("<unk>"), "the vocabulary has no <unk>"),
    "surrogate": (
        lambda v: v["model"]["vocab"].update({"\ud800": 900}),
        "'\\ud800' has a lone surrogate",
    ),
    "large id": (
        lambda v: v["model"]["vocab"].update({"x": 2**24}),
        "'x' has the impossible id 16777216",
    ),
    "two ids": (lambda v: v["model"]["vocab"].update({"x": 1}), "id 1 has two tokens"),
    "merge": (lambda v: v["model"]["merges"].append(["q", "z</w>"]), "which is not in the vocab"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str, tmp_path: Path) -> None:
    edit, message = REFUSED[name]
    file = saved(words(tmp_path / "made"), tmp_path / "bare") / "tokenizer.json"
    values = json.loads(file.read_text("utf-8"))
    Tokenizer.from_directory(file.parent)
    edit(values)
    file.write_text(json.dumps(values), "utf-8")
    with pytest.raises(TokenizerError) as refused:
        Tokenizer.from_directory(file.parent)
    assert any(message in problem for problem in refused.value.problems), refused.value.problems


def test_a_million_characters_take_seconds(small: Tokenizer) -> None:
    start_s = time.monotonic()
    small.encode("the cat " * 60_000 + "x" * 500_000)
    assert time.monotonic() - start_s < 20


def test_neither_torch_nor_what_is_not_needed_is_imported(small_dir: Path, tmp_path: Path) -> None:
    """tokenizers is for words alone, and torch for neither kind."""
    byte_level = saved(trained(), tmp_path / "bytes")
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from model.tokenizer import Tokenizer\n"
            f"Tokenizer.from_directory(Path({str(byte_level)!r}))\n"
            "print('tokenizers' in sys.modules)\n"
            f"Tokenizer.from_directory(Path({str(small_dir)!r}))\n"
            "print('tokenizers' in sys.modules, 'torch' in sys.modules)",
        ],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == ["False", "True", "False"]
