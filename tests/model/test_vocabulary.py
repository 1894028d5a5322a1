"""Vocabularies that cannot be served are refused by name, every problem in one message."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.tokenizer import Tokenizer, TokenizerError, VocabularyMissing
from tests.support.vocabularies import crafted, edited


@pytest.fixture(scope="module")
def gpt2_dir(shared_data: Path) -> Path:
    return shared_data / "vocab" / "gpt2"


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
    "a list for an id": (setting("model", "vocab", "zq", value=[1]), r"impossible id \[1\]"),
    "a huge id": (setting("model", "vocab", "zq", value=2**24), "ids are 0 to 16,777,215"),
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


def test_many_bad_merges_are_told_by_the_first(plain_dir: Path, tmp_path: Path) -> None:
    shutil.copy(plain_dir / "tokenizer.json", tmp_path)
    with pytest.raises(TokenizerError, match="and 95 more problems") as caught:
        Tokenizer.from_directory(edited(tmp_path, setting("model", "merges", value=["x"] * 100)))
    assert len(caught.value.problems) == 6


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
