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
from tokenizers import AddedToken, ByteLevelBPETokenizer
from transformers import GPT2TokenizerFast

from model.tokenizer import _SPACE, Tokenizer, TokenizerError, VocabularyMissing

CORPUS = ["the cat sat on the mat, that cat!", "aaaa aaa aaaaaaa", "naïve café 世界 12 123"] * 20


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


def crafted(merges: list[tuple[str, str]], path: Path) -> Any:
    """A vocabulary with just these merges, in tokenizers and on disk."""
    alphabet = sorted(trained(vocab_size=256).get_vocab())
    tokens = dict.fromkeys([*alphabet, *(a + b for a, b in merges)])
    vocab = {token: id_ for id_, token in enumerate(tokens)}
    other = ByteLevelBPETokenizer(vocab=vocab, merges=merges)
    saved(other, path)
    return other


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


# --- what is refused -------------------------------------------------------------------------


def test_no_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(VocabularyMissing, match=r"no tokenizer\.json"):
        Tokenizer.from_directory(tmp_path)


def test_half_a_vocabulary(gpt2_dir: Path, tmp_path: Path) -> None:
    shutil.copy(gpt2_dir / "encoder.json", tmp_path)
    with pytest.raises(TokenizerError, match=r"vocab\.bpe is missing") as caught:
        Tokenizer.from_directory(tmp_path)
    assert not isinstance(caught.value, VocabularyMissing)


def setting(*keys: str, value: object) -> Callable[[dict[str, Any]], None]:
    def edit(values: dict[str, Any]) -> None:
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = value

    return edit


def added(**flags: object) -> Callable[[dict[str, Any]], None]:
    return lambda values: values["added_tokens"].append(flags)


def dropped(*tokens: str) -> Callable[[dict[str, Any]], None]:
    def edit(values: dict[str, Any]) -> None:
        for token in tokens:
            del values["model"]["vocab"][token]

    return edit


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "wordpiece": (setting("model", "type", value="WordPiece"), "model WordPiece"),
    "unigram": (setting("model", "type", value="Unigram"), "model Unigram"),
    "no model": (setting("model", value=None), "has no model"),
    "metaspace": (setting("pre_tokenizer", value={"type": "Metaspace"}), "Metaspace"),
    "no pre-tokenizer": (setting("pre_tokenizer", value=None), "no pre-tokenizer"),
    "prefix space": (setting("pre_tokenizer", "add_prefix_space", value=True), "add_prefix_space"),
    "no regex": (setting("pre_tokenizer", "use_regex", value=False), "without regex"),
    "another split": (
        setting(
            "pre_tokenizer",
            value={
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated"},
                    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
                ],
            },
        ),
        r"Split on .*x\+",
    ),
    "normalizer": (setting("normalizer", value={"type": "NFC"}), "normalizer NFC"),
    "decoder": (setting("decoder", value={"type": "WordPiece"}), "decoder WordPiece"),
    "template": (
        setting(
            "post_processor",
            value={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}],
            },
        ),
        "TemplateProcessing adds tokens",
    ),
    "byte fallback": (setting("model", "byte_fallback", value=True), "byte_fallback=True"),
    "dropout": (setting("model", "dropout", value=0.1), "dropout=0.1"),
    "suffix": (setting("model", "end_of_word_suffix", value="</w>"), "end_of_word_suffix"),
    "ignored merges": (setting("model", "ignore_merges", value=True), "ignore_merges"),
    "lstrip": (added(id=900, content="<m>", lstrip=True), "'<m>' has lstrip"),
    "an id for two": (added(id=5, content="<m>"), "id 5 has two tokens"),
    "two ids for one": (added(id=900, content="a"), "'a' has two ids"),
    "impossible id": (added(id=-1, content="<m>"), "impossible id -1"),
    "bytes for two": (setting("model", "vocab", "世", value=900), "have two tokens"),
    "a fractional id": (setting("model", "vocab", "zq", value=1.5), "impossible id 1.5"),
    "a missing byte": (dropped("z"), "lacks 1 of the 256"),
    "a missing merge": (dropped("at"), "needs 'at'"),
    "a bad merge": (setting("model", "merges", value=["a b c"]), "merge 1 is not a pair"),
    "merges out of order": (
        setting("model", "merges", value=[["a", "th"], ["t", "h"]]),
        "merge 1 comes before the merge that makes its part b'th'",
    ),
    "a merge twice": (setting("model", "merges", value=["a t", "a t"]), "listed twice"),
}


@pytest.fixture(scope="module")
def plain_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary with the tokens that the cases above touch."""
    path = tmp_path_factory.mktemp("plain")
    merges = [("t", "h"), ("a", "t"), ("a", "th"), ("ä", "\xb8"), ("ä\xb8", "ĸ")]
    crafted(merges, path)
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str, plain_dir: Path, tmp_path: Path) -> None:
    edit, message = REFUSED[name]
    shutil.copy(plain_dir / "tokenizer.json", tmp_path)
    Tokenizer.from_directory(tmp_path)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_directory(edited(tmp_path, edit))


def test_every_problem_is_in_one_message(plain_dir: Path, tmp_path: Path) -> None:
    shutil.copy(plain_dir / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"add_bos_token": true, "pad_token": "<gone>", "add_prefix_space": true}'
    )
    (tmp_path / "added_tokens.json").write_text("{broken")
    for name in ("normalizer", "byte fallback", "lstrip", "a missing byte"):
        edited(tmp_path, REFUSED[name][0])
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.from_directory(tmp_path)
    for part in (
        *("NFC", "byte_fallback", "lstrip", "lacks 1", "add_bos_token", "add_prefix_space"),
        *("'<gone>' has no id", "added_tokens.json is not readable"),
    ):
        assert part in str(caught.value)
        assert any(part in problem for problem in caught.value.problems)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"{" * 100_000, b"null"])
def test_a_malformed_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize("stage", ["normalizer", "pre_tokenizer", "decoder", "post_processor"])
@pytest.mark.parametrize(
    "value", [5, "x", [1], {"type": "Sequence", "pretokenizers": 5}, {"type": 3, "single": [5]}]
)
def test_a_malformed_stage_is_a_problem_or_nothing(
    stage: str, value: object, plain_dir: Path, tmp_path: Path
) -> None:
    shutil.copy(plain_dir / "tokenizer.json", tmp_path)
    edited(tmp_path, setting(stage, value=value))
    if not (isinstance(value, dict) and value["type"] == "Sequence" and stage != "pre_tokenizer"):
        with pytest.raises(TokenizerError):
            Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        '{"added_tokens_decoder": {"x": 5}}',
        '{"added_tokens_decoder": {"' + "9" * 50 + '": {"content": "<m>"}}}',
        '{"added_tokens_decoder": {"900": {"content": "\\ud83d"}}}',
        '{"added_tokens_decoder": {"900": {"content": ""}}}',
    ],
)
def test_malformed_added_tokens(content: str, plain_dir: Path, tmp_path: Path) -> None:
    shutil.copy(plain_dir / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"added token|impossible id"):
        Tokenizer.from_directory(tmp_path)


def test_a_class_that_tokenizes_otherwise(gpt2_dir: Path, tmp_path: Path) -> None:
    shutil.copy(gpt2_dir / "encoder.json", tmp_path / "vocab.json")
    shutil.copy(gpt2_dir / "vocab.bpe", tmp_path / "merges.txt")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    with pytest.raises(TokenizerError, match="CLIPTokenizer"):
        Tokenizer.from_directory(tmp_path)
