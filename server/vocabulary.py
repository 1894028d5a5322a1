"""Texts and token ids: the tokenizer as the routes need it, also for a checkpoint without one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from server.errors import ApiError

QUICK_TEXT_LEN = 4_096
"""Characters that are encoded at once; longer texts go to a thread, off the event loop."""

PAUSE_TEXT_LEN = 256
"""After a text as long as that the event loop has a turn: a request may hold a hundred."""


class Tokenizer(Protocol):
    """What is used of ``model.tokenizer.Tokenizer``."""

    @property
    def vocab_size(self) -> int:
        """Highest id + 1."""

    def encode(self, text: str) -> list[int]:
        """Text to ids."""

    def token_bytes(self, token_id: int, /) -> bytes:
        """The bytes of one token. Raises KeyError."""


class Vocabulary:
    """Texts to ids, ids to bytes and to the names that answers give them.

    With no tokenizer (``has_text`` is false) every id has an empty text.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._bytes = _all_bytes(tokenizer) if tokenizer is not None else []
        self.max_token_bytes = max(map(len, filter(None, self._bytes)), default=0)

    @property
    def has_text(self) -> bool:
        """Whether text goes in and comes out."""
        return self._tokenizer is not None

    async def encode(self, text: str, param: str) -> list[int]:
        """Ids of ``text``. Raises ApiError, about ``param``, without a vocabulary."""
        if self._tokenizer is None:
            raise no_vocabulary(param)
        if len(text) <= QUICK_TEXT_LEN:
            ids = self._tokenizer.encode(text)
            if len(text) > PAUSE_TEXT_LEN:
                await asyncio.sleep(0)
            return ids
        return await asyncio.to_thread(self._tokenizer.encode, text)

    def has_token(self, token_id: int) -> bool:
        """Whether the id stands for some bytes."""
        return 0 <= token_id < len(self._bytes) and self._bytes[token_id] is not None

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token; none for an id without a token."""
        return (self._bytes[token_id] or b"") if self.has_token(token_id) else b""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of ids, U+FFFD where it is not UTF-8."""
        return b"".join(map(self.token_bytes, token_ids)).decode("utf-8", errors="replace")

    def label(self, token_id: int) -> str:
        r"""A token's name: its text, or ``bytes:\xNN`` if that is not whole characters.

        An id without bytes is ``token_id:N``, so different tokens have different names.
        """
        if not self.has_token(token_id):
            return f"token_id:{token_id}"
        data = self.token_bytes(token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _all_bytes(tokenizer: Tokenizer) -> list[bytes | None]:
    """One entry an id: looked up for every token that is drawn, so kept in a list."""
    entries: list[bytes | None] = []
    for token_id in range(tokenizer.vocab_size):
        try:
            entries.append(tokenizer.token_bytes(token_id))
        except KeyError:
            entries.append(None)
    return entries


def no_vocabulary(param: str) -> ApiError:
    """The refusal of text where only ids are known."""
    return ApiError(
        400,
        f"{param}: this checkpoint has no vocabulary, so text is not understood; send token ids",
        param=param,
        code="no_vocabulary",
    )
