"""From tokens to text while they come: bytes, whole characters, stop strings held back."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopPattern:
    """A stop string, prepared to be found in text that comes character by character.

    ``fallbacks`` holds, for each beginning of ``string``, the length of the longest shorter
    beginning that it ends with (Knuth, Morris and Pratt).
    """

    string: str
    fallbacks: tuple[int, ...]

    def advance(self, matched_len: int, char: str) -> int:
        """The longest beginning that the text ends with after ``char``, given it before."""
        if matched_len == len(self.string):
            matched_len = self.fallbacks[-1]
        while matched_len and self.string[matched_len] != char:
            matched_len = self.fallbacks[matched_len - 1]
        return matched_len + (self.string[matched_len] == char)

    def pending_len(self, matched_len: int) -> int:
        """Characters at the end of the text that a match to come would include."""
        return self.fallbacks[-1] if matched_len == len(self.string) else matched_len


def compile_stops(strings: Iterable[str]) -> tuple[StopPattern, ...]:
    """Prepare stop strings, none of them empty, once for all choices of a request."""
    return tuple(StopPattern(string, _fallbacks(string)) for string in strings)


def _fallbacks(string: str) -> tuple[int, ...]:
    lengths = [0] * len(string)
    length = 0
    for i in range(1, len(string)):
        while length and string[i] != string[length]:
            length = lengths[length - 1]
        length += string[i] == string[length]
        lengths[i] = length
    return tuple(lengths)


class TextStream:
    """The text of one sequence, released as soon as no later token can change it.

    The joined pieces are the decoded bytes of all tokens (what is not UTF-8 becomes U+FFFD),
    cut at the stop string that is completed first, the longest where several are completed
    by one character. The string itself is left out unless ``include_stop``. A string completed
    by one of the first ``min_tokens`` tokens does not count. How tokens are grouped into calls,
    or characters into tokens, changes nothing but the pace.
    """

    def __init__(
        self, stops: Sequence[StopPattern] = (), *, include_stop: bool = False, min_tokens: int = 0
    ) -> None:
        self.is_stopped = False
        self.num_chars = 0
        """Characters decoded so far, released or not: where the next token begins."""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = stops
        self._matched_lens = [0] * len(stops)
        self._include_stop = include_stop
        self._min_tokens = min_tokens
        self._num_tokens = 0
        self._held = ""

    def echo(self, token: bytes) -> str:
        """Take a token of the prompt, before any ``push``: stop strings do not look at it.

        A character that it only begins counts as part of what is generated.
        """
        text = self._decoder.decode(token)
        self.num_chars += len(text)
        return text

    def push(self, token: bytes) -> str:
        """Take one token; returns the text that it releases, often none."""
        self._num_tokens += 1
        return self._release(self._decoder.decode(token))

    def end(self) -> str:
        """No more tokens: returns what was held back. It can still complete a stop string."""
        text = self._release(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _release(self, new: str) -> str:
        if self.is_stopped:
            return ""
        self.num_chars += len(new)
        if not self._stops:
            return new
        text = self._held + new
        for end, char in enumerate(new, len(self._held) + 1):
            stop_len = self._longest_completed(char)
            if stop_len and self._num_tokens > self._min_tokens:
                self.is_stopped = True
                self._held = ""
                return text[: end if self._include_stop else end - stop_len]
        held_len = max(map(StopPattern.pending_len, self._stops, self._matched_lens))
        released, self._held = text[: len(text) - held_len], text[len(text) - held_len :]
        return released

    def _longest_completed(self, char: str) -> int:
        """Length of the longest stop string that ``char`` completes, or 0."""
        longest = 0
        for i, stop in enumerate(self._stops):
            self._matched_lens[i] = stop.advance(self._matched_lens[i], char)
            if self._matched_lens[i] == len(stop.string):
                longest = max(longest, len(stop.string))
        return longest
