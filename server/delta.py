"""What a choice of an answer grows by, and how growth joins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.errors import EngineError
from engine.request import FinishReason, TokenLogprob
from server.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class TokenDetail:
    """A token as ``logprobs`` shows it. ``text_offset`` counts characters of this choice.

    Nothing predicts the first token of an echoed prompt: it has neither number nor alternatives.
    """

    label: str
    text_offset: int
    logprob: float | None = None
    top: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class PromptToken:
    """A token of the prompt, or one that would have been likelier there."""

    token_id: int
    label: str
    logprob: float


@dataclass(slots=True)
class Delta:
    """What a choice grew by. Joined deltas are the choice; see ``join``.

    Either ``finish_reason`` or ``error`` is set on the last one.
    """

    index: int
    seed: int
    prompt_ids: tuple[int, ...] | None = None
    """Only on the first one."""
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    details: list[TokenDetail] = field(default_factory=list)
    prompt_tokens: list[tuple[PromptToken, ...] | None] = field(default_factory=list)
    """The prompt's tokens as ``prompt_logprobs`` shows them: first itself, then likelier ones."""
    finish_reason: FinishReason | None = None
    error: EngineError | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing comes after it."""
        return self.finish_reason is not None or self.error is not None

    @property
    def has_growth(self) -> bool:
        """Whether there is anything in it but its end."""
        return bool(self.text or self.token_ids or self.details or self.prompt_tokens)

    def join(self, later: Delta) -> None:
        """Append ``later``, which comes next for the same choice."""
        self.text += later.text
        self.token_ids += later.token_ids
        self.details += later.details
        self.prompt_tokens += later.prompt_tokens
        self.finish_reason = later.finish_reason
        self.error = later.error


def detail_of(
    token_id: int, logprob: TokenLogprob, num_top: int, offset: int, vocabulary: Vocabulary
) -> TokenDetail:
    """One token for ``logprobs``, itself always among its alternatives."""
    label = vocabulary.label
    top = {label(top_id): value for top_id, value in logprob.top[:num_top]}
    top.setdefault(label(token_id), logprob.logprob)
    return TokenDetail(label(token_id), offset, logprob.logprob, top)
