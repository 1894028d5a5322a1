"""The prompt's part of an answer: its text and its log probabilities, as they are computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.request import TokenLogprob
from server.delta import Delta, PromptToken, TokenDetail, detail_of
from server.schemas import CompletionRequest
from server.text import TextStream
from server.vocabulary import Vocabulary


class PromptEcho:
    """Shows the prompt of one choice, token by token, before anything that was generated."""

    def __init__(
        self, prompt_ids: Sequence[int], request: CompletionRequest, vocabulary: Vocabulary
    ) -> None:
        self._prompt_ids = prompt_ids
        self._vocabulary = vocabulary
        self._has_text = request.echo
        self._num_echoed = request.logprobs if request.echo else None
        self._num_listed = request.prompt_logprobs
        self._is_scored = self._num_echoed is not None or self._num_listed is not None
        self._num_shown = 0

    def feed(self, logprobs: Sequence[TokenLogprob], text: TextStream, delta: Delta) -> None:
        """Take what one output of the engine says of the prompt; ``delta`` grows by it.

        The first call shows the first token, which nothing predicts; all of them where no
        log probability will come.
        """
        if not (self._has_text or self._is_scored):
            return
        if self._num_shown == 0:
            self._show(None, text, delta)
        for logprob in logprobs if self._is_scored else self._none_left():
            self._show(logprob, text, delta)

    def _none_left(self) -> Iterator[None]:
        return (None for _ in range(len(self._prompt_ids) - self._num_shown))

    def _show(self, logprob: TokenLogprob | None, text: TextStream, delta: Delta) -> None:
        token_id = self._prompt_ids[self._num_shown]
        self._num_shown += 1
        offset = text.num_chars
        if self._has_text:
            delta.text += text.echo(self._vocabulary.token_bytes(token_id))
        if self._num_echoed is not None:
            delta.details.append(self._detail(token_id, logprob, offset))
        if self._num_listed is not None:
            delta.prompt_tokens.append(self._listed(token_id, logprob))

    def _detail(self, token_id: int, logprob: TokenLogprob | None, offset: int) -> TokenDetail:
        if logprob is None:
            return TokenDetail(self._vocabulary.label(token_id), offset)
        return detail_of(token_id, logprob, self._num_echoed or 0, offset, self._vocabulary)

    def _listed(
        self, token_id: int, logprob: TokenLogprob | None
    ) -> tuple[PromptToken, ...] | None:
        if logprob is None:
            return None
        values = {token_id: logprob.logprob} | dict(logprob.top[: self._num_listed])
        return tuple(
            PromptToken(i, self._vocabulary.label(i), value) for i, value in values.items()
        )
