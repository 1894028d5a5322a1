"""Prompts as clients send them, texts or ids, made into ids that fit the model."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import PromptTooLong
from engine.messages import ModelInfo
from server.errors import ApiError
from server.vocabulary import Vocabulary

TextOrIds = str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is computed, and how many tokens before it were cut off as asked for."""

    ids: tuple[int, ...]
    num_truncated: int = 0

    def keep_last(self, count: int) -> Prompt:
        """At most the last ``count`` tokens, at least 1."""
        num_cut = max(0, len(self.ids) - count)
        return Prompt(self.ids[num_cut:], self.num_truncated + num_cut)


@dataclass(frozen=True, slots=True)
class PromptReader:
    """Reads the prompts of one request. ``max_len`` is what the context has room for.

    ``num_kept`` tokens are kept of a longer prompt, the last ones; None refuses what does not fit.
    """

    info: ModelInfo
    vocabulary: Vocabulary
    max_len: int
    num_kept: int | None = None

    async def read(self, prompt: TextOrIds, name: str, param: str) -> Prompt:
        """One prompt; an empty one is the end-of-text token. Raises ApiError, PromptTooLong."""
        return self.fit(Prompt(await self.ids(prompt, name, param)), name, param)

    async def ids(self, prompt: TextOrIds, name: str, param: str) -> tuple[int, ...]:
        """All ids of one prompt, each of them known to the model."""
        if isinstance(prompt, str):
            self._check_text_len(prompt, name, param)
            prompt = tuple(await self.vocabulary.encode(prompt, param))
        if prompt and max(prompt) >= self.info.vocab_size:
            place = next(i for i, x in enumerate(prompt) if x >= self.info.vocab_size)
            check_id(f"{name}, index {place},", prompt[place], param, self.info)
        return prompt or self.end_of_text(param)

    def fit(self, prompt: Prompt, name: str, param: str) -> Prompt:
        """Cut what is too long if that was asked for. Raises PromptTooLong."""
        if self.num_kept is not None:
            prompt = prompt.keep_last(self.num_kept)
        if len(prompt.ids) > self.max_len:
            raise PromptTooLong(
                f"{name} must have at most {self.max_len} tokens, the context of this "
                f"model, got {len(prompt.ids)}",
                param,
            )
        return prompt

    def end_of_text(self, param: str) -> tuple[int, ...]:
        """What an empty prompt stands for."""
        if not self.info.eos_token_ids:
            rule = "must not be empty: this model has no end-of-text token"
            raise ApiError(400, f"{param} {rule}", param=param, code="invalid_value")
        return self.info.eos_token_ids[:1]

    def _check_text_len(self, text: str, name: str, param: str) -> None:
        """Refuse what cannot fit before any time is spent on encoding it."""
        limit_bytes = self.max_len * self.vocabulary.max_token_bytes
        num_bytes = len(text.encode())
        if self.num_kept is None and self.vocabulary.has_text and num_bytes > limit_bytes:
            raise PromptTooLong(
                f"{name} must have at most {self.max_len} tokens, the context of this "
                f"model, so at most {limit_bytes} bytes, got {num_bytes} bytes",
                param,
            )


def num_kept_of(truncate_prompt_tokens: int | None, max_len: int) -> int | None:
    """``truncate_prompt_tokens`` as a count: -1 keeps what the context has room for."""
    return max_len if truncate_prompt_tokens == -1 else truncate_prompt_tokens


def check_id(where: str, token_id: int, param: str, info: ModelInfo) -> None:
    """Raise ApiError for an id that the model does not have."""
    if token_id >= info.vocab_size:
        raise ApiError(
            400,
            f"{param}: {where} must be a token id from 0 to {info.vocab_size - 1}, got {token_id}",
            param=param,
            code="invalid_token_id",
        )
