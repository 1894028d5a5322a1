"""Every request that has not ended: what it has brought, and whether the engine may have it.

When the engine dies in a step, the requests of that step are blamed. One that is blamed twice
with nothing brought in between is a suspect. While there are suspects the engine gets one of
them at a time and nothing else: for a few tokens, since draws are keyed and whatever broke would
break again at the same token, and to its end if it becomes a suspect once more. A suspect that
the engine dies of again is to blame alone. A death that lets every request bring something,
as when somebody kills the process by hand, makes no suspects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextvars import Context, copy_context
from dataclasses import dataclass, field

import msgspec

from engine.errors import EngineError
from engine.request import FinishReason, Request, TokenOutput
from engine.stream import RequestStream

MAX_BLAMES = 2
"""So many deaths in a row are forgiven before a request runs alone."""

TRIAL_TOKENS = 16
"""More than what a GPU may have in flight, and lost, when it dies."""


@dataclass
class OpenRequest:
    """A request that has not ended: as it was admitted, and what it has brought."""

    request: Request
    stream: RequestStream
    emitted_ids: list[int] = field(default_factory=list)
    num_scored: int = 0
    num_blames: int = 0
    """Deaths since it last brought something."""
    num_trials: int = 0
    is_suspect: bool = False
    is_sent: bool = False
    trial_len: int | None = None
    """Tokens at which its trial ends; None where it may run to its end."""
    context: Context = field(default_factory=copy_context)
    """Of whoever asked: what is logged about this request is logged there, with what they know."""

    def take(self, output: TokenOutput) -> TokenOutput:
        """Note what an engine has brought; what of it is the reader's business."""
        self.emitted_ids.extend(output.token_ids)
        self.num_scored += len(output.prompt_logprobs)
        if output.token_ids or output.prompt_logprobs:
            self.num_blames = 0
        is_trial_over = self.trial_len is not None and self.trial_len == len(self.emitted_ids)
        if not is_trial_over or output.finish_reason is not FinishReason.LENGTH:
            return output
        self.is_suspect = self.is_sent = False
        self.trial_len = None
        return msgspec.structs.replace(output, finish_reason=None, times=None)

    def blame(self) -> bool:
        """The engine died while this ran; whether it did so alone, after all it was forgiven."""
        is_guilty = self.is_suspect and self.is_sent
        self.num_blames += 1
        self.is_suspect = self.num_blames >= MAX_BLAMES
        return is_guilty and self.is_suspect

    def begin_trial(self) -> None:
        """It is to run alone: the first time for a few tokens, then to its end."""
        self.num_trials += 1
        trial_len = len(self.emitted_ids) + TRIAL_TOKENS
        is_short = self.num_trials == 1 and trial_len < self.request.params.max_tokens
        self.trial_len = trial_len if is_short else None

    def resumed(self) -> Request:
        """The request that goes on where this one is."""
        params = self.request.params
        params = msgspec.structs.replace(params, scored_from=params.scored_from + self.num_scored)
        if self.trial_len is not None:
            params = msgspec.structs.replace(params, max_tokens=self.trial_len)
        emitted_ids = tuple(self.emitted_ids)
        return msgspec.structs.replace(self.request, params=params, emitted_ids=emitted_ids)


class OpenRequests:
    """All of them, in the order in which they were admitted."""

    def __init__(self) -> None:
        self._entries: dict[int, OpenRequest] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[OpenRequest]:
        return iter(tuple(self._entries.values()))

    def add(self, entries: Iterable[OpenRequest]) -> None:
        """They have been admitted."""
        self._entries.update((entry.request.request_id, entry) for entry in entries)

    def get(self, request_id: int) -> OpenRequest | None:
        """The request of that id; None where it has ended, or its reader has left."""
        return self._entries.get(request_id)

    def remove(self, request_id: int) -> None:
        """It has ended. Unknown ids are ignored."""
        self._entries.pop(request_id, None)

    def fail(self, entry: OpenRequest, error: EngineError) -> None:
        """End one with ``error``."""
        self.remove(entry.request.request_id)
        entry.stream.fail(error)

    def forget_engine(self) -> None:
        """The engine that had them is gone."""
        for entry in self._entries.values():
            entry.is_sent = False
            entry.trial_len = None

    def blame(self, request_ids: Iterable[int]) -> OpenRequest | None:
        """The engine died while these ran. The one that killed it, if that is known now."""
        entries = [entry for one in request_ids if (entry := self._entries.get(one)) is not None]
        guilty = [entry for entry in entries if entry.blame()]
        return guilty[0] if len(guilty) == 1 else None

    def take_due(self) -> tuple[Request, ...]:
        """What the engine is to be given now; it has that from then on."""
        suspect = next((entry for entry in self._entries.values() if entry.is_suspect), None)
        if suspect is None:
            due = [entry for entry in self._entries.values() if not entry.is_sent]
        elif any(entry.is_sent for entry in self._entries.values()):
            return ()  # it runs alone
        else:
            suspect.begin_trial()
            due = [suspect]
        for entry in due:
            entry.is_sent = True
        return tuple(entry.resumed() for entry in due)
