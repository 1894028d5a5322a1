"""The vocabulary files of a checkpoint, read into one form. Torch-free; see model/tokenizer.py.

Three layouts carry the same thing, GPT-2's byte-level BPE: ``tokenizer.json`` (what the current
transformers writes alone), ``encoder.json`` + ``vocab.bpe`` (OpenAI), ``vocab.json`` +
``merges.txt`` (older transformers). The first GPT's words (model/gpt_tokenizer.py) come in the
same ones, OpenAI's as ``encoder_bpe_40000.json`` + ``vocab_40000.bpe``. Anything that would
tokenize differently is a problem, named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from model.gpt_tokenizer import (
    END_OF_WORD,
    TOKENIZER_CLASSES,
    UNKNOWN,
    is_of_words,
    pipeline_problems,
)

_PAIRS = (
    ("encoder.json", "vocab.bpe"),
    ("vocab.json", "merges.txt"),
    ("encoder_bpe_40000.json", "vocab_40000.bpe"),
)
_EXTRAS = ("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")

VOCABULARY_FILES: tuple[str, ...] = (
    "tokenizer.json",
    *(name for pair in _PAIRS for name in pair),
    *_EXTRAS,
)
"""Names of the files that a tokenizer is built from, and that conversion copies."""

# The pre-tokenization of GPT-2 (openai/gpt-2, src/encoder.py), as other tokenizers spell it.
_GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_TOKENIZER_CLASSES = (
    None,
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "PreTrainedTokenizerFast",
    "TokenizersBackend",
    *TOKENIZER_CLASSES,
)
_SPECIAL_FIELDS = tuple(
    f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
_ID = re.compile("[0-9]{1,9}")
_MAX_ID = 2**24 - 1
_MAX_LISTED = 5
_WORD_OPTIONS = ("add_prefix_space", "add_bos_token", "add_eos_token")
_OPTIONS = (*_WORD_OPTIONS, "do_lower_case")  # words are lower-cased in any case
_SPECIAL_LISTS = ("additional_special_tokens", "extra_special_tokens")


class TokenizerError(ValueError):
    """Vocabulary files that cannot be served. ``problems`` lists every reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class VocabularyMissing(TokenizerError):
    """The checkpoint carries no vocabulary: it can be served with prompts as ids only."""


@dataclass(frozen=True)
class AddedToken:
    """A token that is matched as written, before BPE. ``is_normalized`` ones match last."""

    content: str
    id: int
    is_special: bool
    is_normalized: bool


@dataclass
class Vocabulary:
    """What the files say, unverified: see ``problems`` before using it."""

    ids: dict[str, int] = field(default_factory=dict)
    """Token -> id; a byte-level one is written in GPT-2's printable alphabet."""
    merges: list[tuple[str, str]] = field(default_factory=list)
    added: dict[str, AddedToken] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    is_of_words: bool = False
    """Whether it is the first GPT's and not byte-level."""

    def add(self, content: object, id_: object, *, special: bool, normalized: bool) -> None:
        """Note an added token; a contradiction is a problem."""
        if not isinstance(content, str) or not content or not _is_text(content):
            self.problems.append(f"added token {content!r:.80} is not a text")
            return
        known = self.added.get(content)
        known_id = known.id if known else self.ids.get(content, id_)
        if known_id != id_:
            self.problems.append(
                f"token {content!r:.80} has two ids, {known_id!r:.80} and {id_!r:.80}"
            )
        elif not is_id(id_):
            self.problems.append(impossible_id(content, id_))
        elif known is None:
            self.added[content] = AddedToken(content, id_, special, normalized)
        elif special and not known.is_special:
            self.added[content] = AddedToken(content, id_, special, known.is_normalized)


def _is_text(content: str) -> bool:
    """Whether UTF-8 can hold it: JSON can carry lone surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in content)


def is_id(value: object) -> TypeGuard[int]:
    """Whether ``value`` can be a token id: tables have room for each up to the highest."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_ID


def impossible_id(token: str, value: object) -> str:
    """The problem of a token whose id is no id."""
    return f"token {token!r:.80} has the impossible id {value!r:.80}, ids are 0 to {_MAX_ID:,}"


def shortened(problems: list[str]) -> list[str]:
    """A broken vocabulary can be wrong 50,000 times; the first few say how."""
    if len(problems) <= _MAX_LISTED:
        return problems
    rest = len(problems) - _MAX_LISTED
    return [*problems[:_MAX_LISTED], f"and {rest} more problems of the vocabulary"]


def read_vocabulary(directory: Path) -> Vocabulary:
    """Read the vocabulary files of ``directory``, in the order of preference given above.

    Raises VocabularyMissing when there are none. Everything else that is wrong is in
    ``problems`` of the result.
    """
    vocabulary = Vocabulary()
    extras = {name: _load(directory / name, vocabulary.problems) for name in _EXTRAS}
    if (directory / "tokenizer.json").is_file():
        _read_tokenizer_json(_load(directory / "tokenizer.json", vocabulary.problems), vocabulary)
    else:
        _read_pair(_find_pair(directory), directory, vocabulary)
        vocabulary.problems += _class_problems(extras["tokenizer_config.json"])
        default = UNKNOWN if vocabulary.is_of_words else "<|endoftext|>"
        if default in vocabulary.ids:  # special by default, as in transformers
            _add_special(default, vocabulary)
    options = _WORD_OPTIONS if vocabulary.is_of_words else _OPTIONS
    vocabulary.problems += _option_problems(extras["tokenizer_config.json"], options)
    _read_extras(extras, vocabulary)
    return vocabulary


def _find_pair(directory: Path) -> tuple[str, str]:
    started = [pair for pair in _PAIRS if any((directory / name).is_file() for name in pair)]
    if not started:
        raise VocabularyMissing(
            [
                f"{directory} has no vocabulary: no tokenizer.json, no encoder.json with "
                f"vocab.bpe, no vocab.json with merges.txt"
            ]
        )
    complete = [pair for pair in started if all((directory / name).is_file() for name in pair)]
    return (complete or started)[0]


def _load(path: Path, problems: list[str]) -> dict[str, Any]:
    """The JSON object in ``path``; empty, with a problem noted unless it is merely absent."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name} is not readable as JSON: {error}")
        return {}
    if not isinstance(values, dict):
        problems.append(f"{path.name} must hold an object, got {type(values).__name__}")
        return {}
    return values


def _read_pair(pair: tuple[str, str], directory: Path, vocabulary: Vocabulary) -> None:
    missing = [name for name in pair if not (directory / name).is_file()]
    if missing:
        vocabulary.problems.append(f"{pair[0]} and {pair[1]} go together, {missing[0]} is missing")
        return
    vocabulary.ids = _load(directory / pair[0], vocabulary.problems)
    vocabulary.is_of_words = is_of_words(vocabulary.ids)
    try:
        lines = (directory / pair[1]).read_text("utf-8").split("\n")
    except (OSError, ValueError) as error:
        vocabulary.problems.append(f"{pair[1]} is not readable as UTF-8 text: {error}")
        return
    rules = (line.rstrip("\r") for line in lines if not line.startswith("#version"))
    _read_merges([rule for rule in rules if rule], pair[1], vocabulary)


def _read_merges(merges: Iterable[object], name: str, vocabulary: Vocabulary) -> None:
    problems = []
    for number, merge in enumerate(merges, start=1):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        match parts:
            case [str(left), str(right)] if left and right:
                vocabulary.merges.append((left, right))
            case _:
                problems.append(f"{name}: merge {number} is not a pair: {merge!r:.80}")
    vocabulary.problems += shortened(problems)


def _read_tokenizer_json(values: Mapping[str, Any], vocabulary: Vocabulary) -> None:
    model = values.get("model")
    if not isinstance(model, dict):
        vocabulary.problems.append("tokenizer.json has no model")
        return
    has_words = is_of_words(model["vocab"]) if isinstance(model.get("vocab"), dict) else False
    vocabulary.is_of_words = has_words and model.get("end_of_word_suffix") == END_OF_WORD
    if vocabulary.is_of_words:
        vocabulary.problems += pipeline_problems(values)
    else:
        vocabulary.problems += _model_problems(model) + _pipeline_problems(values)
    vocabulary.problems += _post_processor_problems(values)
    if model.get("type", "BPE") != "BPE":
        return
    ids, merges, added = model.get("vocab"), model.get("merges"), values.get("added_tokens") or []
    if not isinstance(ids, dict) or not isinstance(merges, list) or not isinstance(added, list):
        vocabulary.problems.append("tokenizer.json: vocab, merges or added_tokens is malformed")
        return
    vocabulary.ids = ids
    _read_merges(merges, "tokenizer.json", vocabulary)
    for token in added:
        _add_described(token, vocabulary)


def _add_described(token: object, vocabulary: Vocabulary, id_: object = None) -> None:
    """Add a token given as an object, with the flags that transformers writes."""
    if not isinstance(token, dict):
        vocabulary.problems.append(f"added token {token!r} is not an object")
        return
    vocabulary.problems += [
        f"added token {token.get('content')!r} has {flag}, which is not supported"
        for flag in ("lstrip", "rstrip", "single_word")
        if token.get(flag)
    ]
    vocabulary.add(
        token.get("content"),
        token.get("id", id_),
        special=bool(token.get("special")),
        normalized=bool(token.get("normalized")),
    )


def _model_problems(model: Mapping[str, Any]) -> list[str]:
    kind = model.get("type", "BPE")
    if kind != "BPE":
        return [f"model {kind} is not supported, only BPE is"]
    return [
        f"BPE option {name}={model[name]!r} is not supported"
        for name in (
            "dropout",
            "continuing_subword_prefix",
            "end_of_word_suffix",
            "byte_fallback",
            "ignore_merges",
        )
        if model.get(name)
    ]


def _pipeline_problems(values: Mapping[str, Any]) -> list[str]:
    """What stands around the model in tokenizer.json, and is not GPT-2's."""
    problems = [
        f"normalizer {step.get('type')} is not supported"
        for step in _steps(values.get("normalizer"), "normalizers")
    ]
    problems += _pre_tokenizer_problems(_steps(values.get("pre_tokenizer"), "pretokenizers"))
    problems += [
        f"decoder {step.get('type')} is not supported, only ByteLevel is"
        for step in _steps(values.get("decoder"), "decoders")
        if step.get("type") != "ByteLevel"
    ]
    return problems


def _post_processor_problems(values: Mapping[str, Any]) -> list[str]:
    return [
        f"post-processor {step.get('type')} adds tokens, which is not supported"
        for step in _steps(values.get("post_processor"), "processors")
        if step.get("type") != "ByteLevel" and not _is_plain_template(step)
    ]


def _steps(value: object, members: str) -> list[Mapping[str, Any]]:
    """A pipeline stage as a flat list; a Sequence is unfolded."""
    if value is None:
        return []
    if not isinstance(value, dict):
        return [{"type": repr(value)}]
    if value.get("type") != "Sequence":
        return [value]
    parts = value.get(members) or []
    if not isinstance(parts, list):
        return [{"type": f"Sequence of {parts!r}"}]
    return [step for member in parts for step in _steps(member, members)]


def _is_plain_template(step: Mapping[str, Any]) -> bool:
    single = step.get("single")
    return (
        step.get("type") == "TemplateProcessing"
        and isinstance(single, list)
        and all(isinstance(piece, dict) and "SpecialToken" not in piece for piece in single)
    )


def _pre_tokenizer_problems(steps: list[Mapping[str, Any]]) -> list[str]:
    if not steps:
        return ["no pre-tokenizer is given, only ByteLevel is supported"]
    problems = [
        "pre-tokenizer ByteLevel with add_prefix_space=true is not supported"
        for step in steps
        if step.get("type") == "ByteLevel" and step.get("add_prefix_space", True)
    ]
    match [_pre_tokenizer_name(step) for step in steps]:
        case ["ByteLevel"] | ["GPT-2 split", "ByteLevel without regex"]:
            return problems
        case names:
            listed = ", ".join(names)
            return [
                *problems,
                f"pre-tokenizer {listed} is not supported, only GPT-2's ByteLevel is",
            ]


def _pre_tokenizer_name(step: Mapping[str, Any]) -> str:
    if step.get("type") == "ByteLevel":
        return "ByteLevel" if step.get("use_regex", True) else "ByteLevel without regex"
    if step.get("type") == "Split":
        is_plain = step.get("behavior") == "Isolated" and not step.get("invert")
        is_gpt2 = is_plain and step.get("pattern") == {"Regex": _GPT2_SPLIT}
        return "GPT-2 split" if is_gpt2 else f"Split on {step.get('pattern')}"
    return str(step.get("type"))


def _class_problems(config: Mapping[str, Any]) -> list[str]:
    name = config.get("tokenizer_class")
    return [] if name in _TOKENIZER_CLASSES else [f"tokenizer class {name} is not supported"]


def _option_problems(config: Mapping[str, Any], options: Iterable[str]) -> list[str]:
    return [
        f"tokenizer_config.json: {name}=true is not supported"
        for name in options
        if config.get(name)
    ]


def _read_extras(extras: Mapping[str, Mapping[str, Any]], vocabulary: Vocabulary) -> None:
    described = extras["tokenizer_config.json"].get("added_tokens_decoder") or {}
    for key, token in described.items() if isinstance(described, dict) else ():
        _add_described(token, vocabulary, int(key) if _ID.fullmatch(key) else key)
    for content, id_ in extras["added_tokens.json"].items():
        vocabulary.add(content, id_, special=False, normalized=True)
    for values in (extras["special_tokens_map.json"], extras["tokenizer_config.json"]):
        for content in _special_contents(values):
            _add_special(content, vocabulary)


def _special_contents(values: Mapping[str, Any]) -> Iterator[str]:
    tokens = [values.get(name) for name in _SPECIAL_FIELDS]
    for name in _SPECIAL_LISTS:
        more = values.get(name) or []
        tokens += (
            more.values() if isinstance(more, dict) else more if isinstance(more, list) else []
        )
    for token in tokens:
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            yield content


def _add_special(content: str, vocabulary: Vocabulary) -> None:
    known = vocabulary.added.get(content)
    id_ = known.id if known else vocabulary.ids.get(content)
    if id_ is None:
        problem = f"special token {content!r} has no id in the vocabulary files"
        if problem not in vocabulary.problems:
            vocabulary.problems.append(problem)
        return
    vocabulary.add(content, id_, special=True, normalized=False)
