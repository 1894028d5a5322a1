"""Tokenizer: text <-> ids by GPT-2's byte-level BPE (GPT-2 paper, section 2.2). Torch-free.

A vocabulary of the first GPT is served by model/gpt_tokenizer.py behind the same methods.

tiktoken merges whatever adjacent parts concatenate to a token, by the lowest rank; a checkpoint
lists pairs, in order. ``_live_ranks`` finds the merges that can ever happen; with the rank of
those, and only those, the two rules give the same ids (see there).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import tiktoken

from model.gpt_tokenizer import word_bytes, word_encoder, word_problems
from model.vocabulary import (
    VOCABULARY_FILES,
    AddedToken,
    TokenizerError,
    Vocabulary,
    VocabularyMissing,
    impossible_id,
    is_id,
    read_vocabulary,
    shortened,
)

__all__ = ["VOCABULARY_FILES", "Tokenizer", "TokenizerError", "VocabularyMissing"]

# GPT-2's pre-tokenization, with possessive repeats so that long runs take linear time.
_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"  # noqa: E501, RUF100
# Looking ahead after white space costs tiktoken stack, which overflows at a million characters.
_LONG_RUN = 100_000
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode White_Space
_LONG_SPACE = re.compile(f"[{_SPACE}]{{{_LONG_RUN},}}+")


class Tokenizer:
    """Text <-> ids, for one checkpoint's vocabulary. Immutable, and safe to share by threads.

    Added tokens that are written in a text become their ids, special or not, as in transformers.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises TokenizerError naming everything that cannot be served."""
        bytes_of = word_bytes if vocabulary.is_of_words else _token_bytes
        bytes_by_token = {token: bytes_of(token) for token in vocabulary.ids}
        problems = vocabulary.problems + _id_problems(vocabulary, bytes_by_token)
        if problems:
            raise TokenizerError(problems)
        self._bytes_by_id = {vocabulary.ids[t]: value for t, value in bytes_by_token.items()}
        added = vocabulary.added.values()
        self._bytes_by_id |= {token.id: token.content.encode() for token in added}
        self._added_ids = {token.content: token.id for token in added}
        self.is_of_words = vocabulary.is_of_words
        """Whether it is the first GPT's: then text comes back lower-cased and spaced out."""
        self._added_patterns = _added_patterns(added)
        self.special_tokens: Mapping[str, int] = {t.content: t.id for t in added if t.is_special}
        self.vocab_size = max(self._bytes_by_id, default=-1) + 1
        """The highest id, added tokens included, and one."""
        self._encode_plain = (
            word_encoder(vocabulary.ids, vocabulary.merges)
            if vocabulary.is_of_words
            else _byte_encoder(vocabulary, bytes_by_token)
        )

    @classmethod
    def from_directory(cls, path: Path) -> Tokenizer:
        """Build from the vocabulary files in ``path``.

        Raises VocabularyMissing when there are none, and TokenizerError naming everything that
        is malformed or not supported.
        """
        return cls(read_vocabulary(path))

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``. Raises ValueError for a lone surrogate, which UTF-8 cannot hold."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text has a lone surrogate, U+{ord(text[error.start]):04X}, "
                f"at character {error.start}"
            ) from None
        ids: list[int] = []
        for piece, added_id in self._pieces(text):
            ids += self._encode_plain(piece) if added_id is None else (added_id,)
        return ids

    def token_bytes(self, id: int) -> bytes:  # noqa: A002
        """The bytes that ``id`` stands for. Raises KeyError for an id without a token."""
        return self._bytes_by_id[id]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ``ids``, joined. Raises KeyError for an id without a token."""
        return b"".join([self._bytes_by_id[id_] for id_ in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def _pieces(self, text: str) -> Iterator[tuple[str, int | None]]:
        """``text`` cut at added tokens: (plain text, None) or (token, its id)."""
        pieces: list[tuple[str, int | None]] = [(text, None)]
        for pattern in self._added_patterns:
            pieces = [
                cut
                for piece, id_ in pieces
                for cut in (self._cut(pattern, piece) if id_ is None else ((piece, id_),))
            ]
        return iter(pieces)

    def _cut(self, pattern: re.Pattern[str], text: str) -> Iterator[tuple[str, int | None]]:
        for index, piece in enumerate(pattern.split(text)):  # odd ones are the matches
            if piece:
                yield piece, self._added_ids[piece] if index % 2 else None


def _byte_encoder(
    vocabulary: Vocabulary, bytes_by_token: Mapping[str, bytes]
) -> Callable[[str], list[int]]:
    """Text -> ids, added tokens apart. Raises TokenizerError."""
    ids_by_bytes = {value: vocabulary.ids[token] for token, value in bytes_by_token.items()}
    ranks = _live_ranks(_merges_as_bytes(vocabulary.merges, bytes_by_token))
    encoding, ids_by_rank = _encoding(ids_by_bytes, ranks)

    def encode(text: str) -> list[int]:
        found = [rank for run in _runs(text) for rank in encoding.encode_ordinary(run)]
        return found if ids_by_rank is None else [ids_by_rank[rank] for rank in found]

    return encode


def _runs(text: str) -> Iterator[str]:
    """``text``, cut around its very long white space, where the pre-tokenizer cuts as well.

    That is before the white space, and before its last character if more text follows.
    """
    start = 0
    for match in _LONG_SPACE.finditer(text) if len(text) >= _LONG_RUN else ():
        end = match.end() if match.end() == len(text) else match.end() - 1
        yield from (text[start : match.start()], text[match.start() : end])
        start = end
    yield text[start:]


def _alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in -> byte: itself where printable, else 256 and up, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTES_BY_STAND_IN = _alphabet()


def _token_bytes(token: str) -> bytes:
    """The bytes of a token; one that is not written in the alphabet stands for itself."""
    try:
        return bytes([_BYTES_BY_STAND_IN[char] for char in token])
    except KeyError:
        return token.encode("utf-8", errors="replace")


def _added_patterns(tokens: Iterable[AddedToken]) -> list[re.Pattern[str]]:
    """One pattern a phase: the leftmost match, of these the longest, becomes the token."""
    phases: dict[bool, list[str]] = {}
    for token in tokens:
        phases.setdefault(token.is_normalized, []).append(token.content)
    return [
        re.compile(f"({'|'.join(map(re.escape, sorted(phases[phase], key=len, reverse=True)))})")
        for phase in sorted(phases)
    ]


def _id_problems(vocabulary: Vocabulary, bytes_by_token: Mapping[str, bytes]) -> list[str]:
    """Everything that keeps ids and bytes from being one to one, and merges from being sound."""
    problems = [
        impossible_id(token, id_) for token, id_ in vocabulary.ids.items() if not is_id(id_)
    ]
    names: dict[int, str] = {}
    for token, id_ in [
        *vocabulary.ids.items(),
        *((a.content, a.id) for a in vocabulary.added.values()),
    ]:
        if is_id(id_) and names.setdefault(id_, token) != token:
            problems.append(f"id {id_} has two tokens, {names[id_]!r} and {token!r}")
    owners: dict[bytes, str] = {}
    for token, value in bytes_by_token.items():
        if owners.setdefault(value, token) != token:
            problems.append(f"bytes {value!r} have two tokens, {owners[value]!r} and {token!r}")
    if not problems and vocabulary.is_of_words:
        problems += word_problems(vocabulary.ids)
    missing = sum(bytes([b]) not in owners for b in range(256))
    if vocabulary.ids and missing and not vocabulary.is_of_words:
        problems.append(f"the vocabulary lacks {missing} of the 256 single bytes")
    problems += _merge_problems(vocabulary)
    return shortened(problems)


def _merge_problems(vocabulary: Vocabulary) -> list[str]:
    problems = []
    seen: set[tuple[str, str]] = set()
    for number, (left, right) in enumerate(vocabulary.merges, start=1):
        problems += [
            f"merge {number} needs {token!r}, which is not in the vocabulary"
            for token in (left, right, left + right)
            if token not in vocabulary.ids
        ]
        if (left, right) in seen:
            problems.append(f"merge {number} ({left!r}, {right!r}) is listed twice")
        seen.add((left, right))
    return problems


class _Merge(NamedTuple):
    rank: int
    left: bytes
    right: bytes


def _live_ranks(merges: Iterable[tuple[bytes, bytes]]) -> dict[bytes, int]:
    """Token -> rank of the one merge that can ever make it; tokens that nothing makes are absent.

    A pair that is adjacent just before its turn, in any text, is also what its own bytes have
    become by then: merges never cross the borders of the two. BPE being deterministic, a token
    has at most one such pair, and no other split of its bytes can be adjacent at that time or
    later. So ranking tokens instead of pairs, as tiktoken does, changes nothing. All of this
    needs parts that are made before they are used: TokenizerError, where they are not.
    """
    live: dict[bytes, _Merge] = {}
    ranks: dict[tuple[bytes, bytes], int] = {}
    users: dict[bytes, int] = {}  # a part that nothing has made yet -> the rank that wants it
    for rank, (left, right) in enumerate(merges):
        unmade = [part for part in (left, right) if len(part) > 1 and part not in live]
        if unmade:
            users |= dict.fromkeys(unmade, rank)
        elif _is_reached(left, right, rank, live, ranks):
            live[left + right] = _Merge(rank, left, right)
            ranks[left, right] = rank
    problems = [
        f"merge {rank + 1} comes before the merge that makes its part {part!r}"
        for part, rank in users.items()
        if part in live
    ]
    if problems:
        raise TokenizerError(shortened(problems))
    return {token: merge.rank for token, merge in live.items()}


def _merges_as_bytes(
    merges: Iterable[tuple[str, str]], bytes_by_token: Mapping[str, bytes]
) -> list[tuple[bytes, bytes]]:
    return [(bytes_by_token[left], bytes_by_token[right]) for left, right in merges]


def _is_reached(
    left: bytes,
    right: bytes,
    rank: int,
    live: Mapping[bytes, _Merge],
    ranks: Mapping[tuple[bytes, bytes], int],
) -> bool:
    """Whether the bytes of both, encoded with the merges before ``rank``, end as these two.

    Walks back through how each was made, and looks for an earlier merge across the border.
    Equal ranks go to the leftmost: a merge inside ``left`` comes first, one inside ``right`` last.
    """
    left_end = right_end = rank  # when the part now at the border was merged into a larger one
    while True:
        crossing = ranks.get((left, right))
        if crossing is not None and crossing < left_end and crossing <= right_end:
            return False
        left_made, right_made = live.get(left), live.get(right)
        left_rank = left_made.rank if left_made else -1
        right_rank = right_made.rank if right_made else -1
        if left_made and left_rank >= right_rank:
            left, left_end = left_made.right, left_rank
        if right_made and right_rank >= left_rank:
            right, right_end = right_made.left, right_rank
        if not left_made and not right_made:
            return True


def _encoding(
    ids_by_bytes: Mapping[bytes, int], ranks: Mapping[bytes, int]
) -> tuple[tiktoken.Encoding, list[int] | None]:
    """The Encoding, and rank -> id where ids do not follow the order of the merges."""
    order = [bytes([b]) for b in range(256)] + sorted(ranks, key=ranks.__getitem__)
    ids = [ids_by_bytes[token] for token in order]
    in_order = all(a < b for a, b in pairwise(ids[256:]))
    table = ids if in_order else range(len(order))
    encoding = tiktoken.Encoding(
        "checkpoint",
        pat_str=_SPLIT,
        mergeable_ranks=dict(zip(order, table, strict=True)),
        special_tokens={},
    )
    return encoding, None if in_order else ids
