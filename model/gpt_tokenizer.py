"""The first GPT's BPE: lower-cased words that end in ``</w>`` (GPT paper, section 4.1). Torch-free.

Text is cleaned and cut into words as transformers' OpenAIGPTTokenizer does it, which is BERT's way:
control characters go, white space is only a border between words, accents are taken off, and each
punctuation mark is a word of its own. What no token spells becomes ``<unk>``. OpenAI itself used
spaCy and ftfy, which give other words for contractions, dashes and typographic quotes.

``tokenizers`` does the work, and is imported for these vocabularies only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

END_OF_WORD = "</w>"
UNKNOWN = "<unk>"
TOKENIZER_CLASSES = ("OpenAIGPTTokenizer", "OpenAIGPTTokenizerFast")

_SPACE_IN_BYTE_LEVEL = "\u0120"
_MODEL: Mapping[str, tuple[object, ...]] = {
    "type": ("BPE", None),
    "end_of_word_suffix": (END_OF_WORD,),
    "continuing_subword_prefix": ("", None),
    "unk_token": (UNKNOWN,),
    "dropout": (None, 0),
    "fuse_unk": (False, None),
    "byte_fallback": (False, None),
    "ignore_merges": (False, None),
}
_NORMALIZER: Mapping[str, tuple[object, ...]] = {
    "type": ("BertNormalizer",),
    "clean_text": (True,),
    "handle_chinese_chars": (True,),
    "strip_accents": (None, True),
    "lowercase": (True,),
}
_STAGES: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    "normalizer": _NORMALIZER,
    "pre_tokenizer": {"type": ("BertPreTokenizer",)},
}
_DECODER: Mapping[str, tuple[object, ...]] = {"type": ("BPEDecoder",), "suffix": (END_OF_WORD,)}


def is_of_words(ids: Mapping[str, object]) -> bool:
    """Whether a vocabulary is GPT's and not byte-level, which has a token for the space."""
    return _SPACE_IN_BYTE_LEVEL not in ids and any(token.endswith(END_OF_WORD) for token in ids)


def word_bytes(token: str) -> bytes:
    """The bytes of a token; the end of a word is a space, and no other token brings one."""
    text = token.removesuffix(END_OF_WORD)
    return (text if text == token else text + " ").encode("utf-8", errors="replace")


def word_problems(ids: Mapping[str, int]) -> list[str]:
    """What a vocabulary of words lacks, and what it should not have."""
    problems = [
        f"token {token!r:.80} has a lone surrogate, which UTF-8 cannot hold"
        for token in ids
        if any("\ud800" <= char <= "\udfff" for char in token)
    ]
    if UNKNOWN not in ids:
        problems.append(f"the vocabulary has no {UNKNOWN}, which stands for what it cannot spell")
    return problems


def pipeline_problems(values: Mapping[str, Any]) -> list[str]:
    """What stands in a tokenizer.json of words before BPE and behind it, and is not GPT's."""
    problems = _differences("model", values.get("model"), _MODEL)
    stages = _STAGES if values.get("decoder") is None else {**_STAGES, "decoder": _DECODER}
    for stage, expected in stages.items():
        problems += _differences(stage, values.get(stage), expected)
    return problems


def _differences(
    stage: str, found: object, expected: Mapping[str, tuple[object, ...]]
) -> list[str]:
    if not isinstance(found, dict):
        return [f"tokenizer.json: {stage} must be {expected['type'][0]}, got {found!r:.80}"]
    return [
        f"tokenizer.json: {stage} has {name} {found.get(name)!r:.80}, "
        f"only {choices[0]!r} is supported in a vocabulary of words"
        for name, choices in expected.items()
        if found.get(name) not in choices
    ]


def word_encoder(
    ids: Mapping[str, int], merges: Sequence[tuple[str, str]]
) -> Callable[[str], list[int]]:
    """Text without lone surrogates -> ids, by a vocabulary that has been checked."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = Tokenizer(
        models.BPE(
            vocab=dict(ids),
            merges=list(merges),
            unk_token=UNKNOWN,
            end_of_word_suffix=END_OF_WORD,
            fuse_unk=False,
        )
    )
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    def encode(text: str) -> list[int]:
        found: list[int] = words.encode(text, add_special_tokens=False).ids
        return found

    return encode
