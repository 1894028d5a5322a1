"""Our tokenizer against transformers' fast one, the published cases, and crafted vocabularies."""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import GPT2TokenizerFast

from model.tokenizer import _SPACE, Tokenizer, TokenizerError
from tests.support.vocabularies import crafted, edited, saved, trained


@pytest.fixture(scope="module")
def gpt2_dir(shared_data: Path) -> Path:
    return shared_data / "vocab" / "gpt2"


@pytest.fixture(scope="module")
def gpt2(gpt2_dir: Path) -> Tokenizer:
    return Tokenizer.from_directory(gpt2_dir)


@pytest.fixture(scope="module")
def theirs(gpt2_dir: Path) -> Any:
    return GPT2TokenizerFast(
        vocab=str(gpt2_dir / "encoder.json"), merges=str(gpt2_dir / "vocab.bpe")
    )


@pytest.fixture(scope="module")
def facts(shared_data: Path) -> dict[str, Any]:
    values = json.loads((shared_data / "reference/tokenizer/facts.json").read_text("utf-8"))
    assert isinstance(values, dict)
    return values


def raw_text(path: Path) -> str:
    return path.read_bytes().decode()


def their_ids(theirs: Any, text: str) -> list[int]:
    ids: list[int] = theirs(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def test_the_published_cases(gpt2: Tokenizer, facts: dict[str, Any]) -> None:
    assert len(facts["cases"]) == 15
    for case in facts["cases"]:
        assert gpt2.encode(case["text"]) == case["ids"], case["text"]
        assert gpt2.decode(case["ids"]) == case["text"]


def shakespeare(shared_data: Path) -> str:
    return raw_text(shared_data / "corpora/tinyshakespeare.txt")


COUNTED: dict[str, Callable[[Path], str]] = {
    "wiki.test.raw": lambda data: raw_text(data / "lm/wikitext2/wiki.test.raw"),
    # Hugging Face's dataset keeps the line feed of a line, and empties the blank ones.
    "wikitext2 hfjoin": lambda data: "\n\n".join(
        line if line.strip() else ""
        for line in raw_text(data / "lm/wikitext2/wiki.test.raw").splitlines(keepends=True)
    ),
    "tinyshakespeare whole": shakespeare,
    "nanoGPT train (first 90% chars)": lambda d: shakespeare(d)[: int(len(shakespeare(d)) * 0.9)],
    "nanoGPT val": lambda data: shakespeare(data)[int(len(shakespeare(data)) * 0.9) :],
    # Each paragraph is a document, with the end-of-text token before it.
    "llm.c total": lambda data: (
        "<|endoftext|>" + shakespeare(data).replace("\n\n", "\n\n<|endoftext|>")
    ),
}


@pytest.mark.parametrize("name", COUNTED)
def test_the_known_token_counts(
    name: str, gpt2: Tokenizer, facts: dict[str, Any], shared_data: Path
) -> None:
    text = COUNTED[name](shared_data)
    ids = gpt2.encode(text)
    assert len(ids) == facts["counts"][name]
    assert gpt2.decode(ids) == text


def test_lambada_has_its_lines_and_every_one_comes_back(
    gpt2: Tokenizer, facts: dict[str, Any], shared_data: Path
) -> None:
    lines = raw_text(shared_data / "lm/lambada/lambada_test.jsonl").rstrip("\n").split("\n")
    assert len(lines) == facts["counts"]["lambada lines"]
    for line in lines:
        text = json.loads(line)["text"]
        assert gpt2.decode(gpt2.encode(text)) == text


PIECES = st.sampled_from(
    ["<|endoftext|>", "<|endof", "text|>", " ", "  ", "\n", "'s", "'S", "don't", "a", "é", "Ⅷ", "٣"]
)
TEXTS = st.lists(PIECES | st.text(st.characters(exclude_categories=["Cs"])), max_size=20).map(
    "".join
)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_any_text_equals_transformers(gpt2: Tokenizer, theirs: Any, text: str) -> None:
    ids = gpt2.encode(text)
    assert ids == their_ids(theirs, text)
    assert gpt2.decode(ids) == text


def test_every_character_equals_transformers(gpt2: Tokenizer, theirs: Any) -> None:
    """Letters, numbers and spaces are what the Unicode version of either library says they are."""
    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    points = [c for c in points if c.isprintable() or c.isspace() or ord(c) < 0x3000]
    for start in range(0, len(points), 5_000):
        text = "".join(f"a{c}1{c}, {c}{c} " for c in points[start : start + 5_000])
        assert gpt2.encode(text) == their_ids(theirs, text)


@given(data=st.binary(max_size=200))
def test_any_bytes_come_back(gpt2: Tokenizer, data: bytes) -> None:
    id_of = {gpt2.token_bytes(id_): id_ for id_ in range(256)}
    assert gpt2.decode_bytes(id_of[bytes([b])] for b in data) == data


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 50_256), max_size=30))
def test_any_ids_decode_as_transformers(gpt2: Tokenizer, theirs: Any, ids: list[int]) -> None:
    assert gpt2.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)


def test_an_id_without_a_token_is_a_key_error(gpt2: Tokenizer) -> None:
    for id_ in (-1, 50_257):
        with pytest.raises(KeyError):
            gpt2.token_bytes(id_)
        with pytest.raises(KeyError):
            gpt2.decode([id_])


def test_a_lone_surrogate_is_named(gpt2: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"lone surrogate, U\+D83D, at character 3"):
        gpt2.encode("hi \ud83d there")


@pytest.mark.parametrize("unit", ["a", "^", " ", "\n", "ab", "é", "\n \t", "<|endoftext|>", "'s"])
def test_long_runs_take_linear_time(gpt2: Tokenizer, unit: str) -> None:
    """200 KB without a border for the pre-tokenizer would take minutes where time is quadratic."""
    text = unit * (200_000 // len(unit))
    started = time.perf_counter()
    ids = gpt2.encode(text)
    assert time.perf_counter() - started < 5
    assert gpt2.decode(ids) == text


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.lists(st.sampled_from([" ", "\n", "\x1c", "\u2003", "x"])).map("".join))
def test_cutting_around_white_space_changes_nothing(
    gpt2: Tokenizer, theirs: Any, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr("model.tokenizer._LONG_RUN", 2)
    monkeypatch.setattr("model.tokenizer._LONG_SPACE", re.compile(f"[{_SPACE}]{{2,}}+"))
    assert gpt2.encode(text) == their_ids(theirs, text)


@pytest.mark.parametrize(("space", "after"), [(" ", "x"), ("\n", " x"), (" ", "")])
def test_endless_white_space(gpt2: Tokenizer, space: str, after: str) -> None:
    """tiktoken panics at a million spaces before a word."""
    text = "x" + space * 1_100_000 + after
    assert gpt2.decode(gpt2.encode(text)) == text


# --- the three layouts -----------------------------------------------------------------------


def test_the_layouts_agree(gpt2_dir: Path, gpt2: Tokenizer, theirs: Any, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path / "fast")
    pair = tmp_path / "pair"
    pair.mkdir()
    shutil.copy(gpt2_dir / "encoder.json", pair / "vocab.json")
    shutil.copy(gpt2_dir / "vocab.bpe", pair / "merges.txt")
    text = "Hello <|endoftext|>world, it's 2024 \n\n  ok"
    for path in (tmp_path / "fast", pair):
        tokenizer = Tokenizer.from_directory(path)
        assert tokenizer.encode(text) == gpt2.encode(text)
        assert tokenizer.vocab_size == 50_257
        assert tokenizer.special_tokens == {"<|endoftext|>": 50_256}


def random_texts(num: int = 300) -> Iterator[str]:
    draw = random.Random(5)
    for _ in range(num):
        yield "".join(draw.choices("aaabcthe smn,é世1 2<|>\n", k=draw.randrange(1, 40)))


def agree(tokenizer: Tokenizer, other: Any) -> None:
    for text in random_texts():
        ids = tokenizer.encode(text)
        assert ids == other.encode(text).ids, text
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("specials", [[], ["<|endoftext|>"], ["<s>", "<pad>", "<|endoftext|>"]])
def test_a_trained_vocabulary_with_special_tokens_first(
    specials: list[str], tmp_path: Path
) -> None:
    other = trained(specials)
    tokenizer = Tokenizer.from_directory(saved(other, tmp_path))
    agree(tokenizer, other)
    for id_, token in enumerate(specials):
        assert tokenizer.encode(f"a{token}b") == other.encode(f"a{token}b").ids
        assert tokenizer.special_tokens[token] == id_


def test_special_tokens_last_and_overlapping(tmp_path: Path) -> None:
    """The leftmost, then the longest, is the token; of equal ones those not normalized first."""
    other = trained()
    other.add_special_tokens(["<a>", "<a><b>"])
    other.add_tokens([AddedToken("cat", normalized=True), AddedToken("tsa", normalized=False)])
    tokenizer = Tokenizer.from_directory(saved(other, tmp_path))
    agree(tokenizer, other)
    for text in ("<a><b><a>", "the catsat", "<a>cat<b>", "concatsatcat"):
        assert tokenizer.encode(text) == other.encode(text).ids
    assert set(tokenizer.special_tokens) == {"<a>", "<a><b>"}
    assert tokenizer.vocab_size == other.get_vocab_size()


def test_merges_written_as_texts(tmp_path: Path) -> None:
    def as_texts(values: dict[str, Any]) -> None:
        values["model"]["merges"] = [" ".join(pair) for pair in values["model"]["merges"]]

    other = trained()
    agree(Tokenizer.from_directory(edited(saved(other, tmp_path), as_texts)), other)


def test_ids_in_any_order(tmp_path: Path) -> None:
    """Ids need not follow the merges: here they are shuffled and have gaps."""
    numbers = random.Random(1).sample(range(1_000), 1_000)

    def shuffle(values: dict[str, Any]) -> None:
        vocab = values["model"]["vocab"]
        values["model"]["vocab"] = {token: numbers[id_] for token, id_ in vocab.items()}

    other = trained()
    tokenizer = Tokenizer.from_directory(edited(saved(other, tmp_path), shuffle))
    for text in random_texts():
        ids = tokenizer.encode(text)
        assert ids == [numbers[id_] for id_ in other.encode(text).ids]
        assert tokenizer.decode(ids) == text
    assert tokenizer.vocab_size == max(numbers[: other.get_vocab_size()]) + 1


LETTERS = "ab"


@st.composite
def merge_lists(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Merges over two letters, of which many compete, and some can never happen."""
    tokens = list(LETTERS)
    merges: list[tuple[str, str]] = []
    for _ in range(draw(st.integers(1, 12))):
        pair = (draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens)))
        token = "".join(pair)
        if pair not in merges and (token not in tokens or draw(st.booleans())) and len(token) < 9:
            merges.append(pair)
            tokens.append(token)
    return merges


@settings(max_examples=300, deadline=None)
@given(merges=merge_lists(), texts=st.lists(st.text(LETTERS, max_size=40), min_size=5))
def test_merges_that_compete(
    merges: list[tuple[str, str]], texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """tiktoken ranks tokens, a checkpoint pairs: a merge that never happens must not count."""
    path = tmp_path_factory.mktemp("crafted")
    other = crafted(merges, path)
    try:
        tokenizer = Tokenizer.from_directory(path)
    except TokenizerError:  # a merge uses what only a later one makes
        reject()
    for text in [*texts, *(a + b for a, b in merges)]:
        ids = tokenizer.encode(text)
        assert ids == other.encode(text).ids, (merges, text)
        assert tokenizer.decode(ids) == text


def test_a_token_that_nothing_makes_is_decodable(tmp_path: Path) -> None:
    """'bcd' wants 'bc' and 'd', but 'cd' is always merged first."""
    other = crafted([("c", "d"), ("b", "c"), ("bc", "d")], tmp_path)
    tokenizer = Tokenizer.from_directory(tmp_path)
    unreachable = other.token_to_id("bcd")
    assert (
        tokenizer.encode("bcd")
        == other.encode("bcd").ids
        == [
            other.token_to_id("b"),
            other.token_to_id("cd"),
        ]
    )
    assert tokenizer.decode([unreachable]) == "bcd"


def test_added_tokens_of_the_older_layout(gpt2_dir: Path, tmp_path: Path) -> None:
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(gpt2_dir / name, tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"<|pad|>": 50257, "<|x|>": 50258}')
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": {"content": "<|pad|>"}}')
    tokenizer = Tokenizer.from_directory(tmp_path)
    assert tokenizer.encode("a<|pad|><|x|><|endoftext|>") == [64, 50257, 50258, 50256]
    assert tokenizer.special_tokens == {"<|pad|>": 50257, "<|endoftext|>": 50256}
    assert tokenizer.vocab_size == 50259
