"""Step: what one pass of the engine loop computes. Decided by the scheduler, done by the runner."""

from __future__ import annotations

from dataclasses import dataclass

from engine.request import SamplingParams, TaskParams, TokenLogprob


@dataclass(frozen=True, slots=True)
class PrefixCopy:
    """The first ``length`` positions of slot ``source`` go into slot ``target``."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class SamplingState:
    """What a draw needs of its request.

    ``token_index`` counts the tokens generated so far; ``output_ids`` are these tokens, given
    only where a penalty reads them. ``banned_ids`` may not be drawn yet; of the others only those
    that are ``allowed``, one bit each.
    """

    params: SamplingParams
    token_index: int
    prompt_ids: tuple[int, ...] = ()
    output_ids: tuple[int, ...] = ()
    banned_ids: tuple[int, ...] = ()
    allowed: bytes | None = None


@dataclass(frozen=True, slots=True)
class ScoringState:
    """Prompt tokens whose log probability is wanted.

    ``target_ids`` are the tokens that follow those of the row from ``offset`` on, one each.
    """

    offset: int
    target_ids: tuple[int, ...]
    num_logprobs: int


@dataclass(frozen=True, slots=True)
class StepRow:
    """One request's share of a step.

    ``token_ids`` go to positions ``start`` and following of ``slot``. ``sampling`` is set where
    the row reaches the end of what is known, so that its next token is drawn; ``scoring``
    where the tokens that follow are known and asked about. A row of a ``task`` runs through that
    task's trunk, and is classified where it ends, ``is_classified``.
    """

    request_id: int
    slot: int
    start: int
    token_ids: tuple[int, ...]
    sampling: SamplingState | None
    scoring: ScoringState | None = None
    task: TaskParams | None = None
    is_classified: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """Copies come first, in order; then the rows, all at once."""

    copies: tuple[PrefixCopy, ...]
    rows: tuple[StepRow, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens over all rows."""
        return sum(len(row.token_ids) for row in self.rows)

    @property
    def phase(self) -> str:
        """``decode`` where every row has one token, ``prefill`` where none draws, else mixed."""
        if all(len(row.token_ids) == 1 for row in self.rows):
            return "decode"
        if all(len(row.token_ids) > 1 or row.sampling is None for row in self.rows):
            return "prefill"
        return "mixed"


@dataclass(frozen=True, slots=True)
class Drawn:
    """The token drawn for one row, with its raw log probability and the likeliest ones."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step brought, in the order of its rows.

    ``drawn`` has one entry for each row with ``sampling``, ``scored`` one for each with
    ``scoring``: a log probability for each of its targets; ``classified`` the head's logits for
    each that ``is_classified``.
    """

    drawn: tuple[Drawn, ...] = ()
    scored: tuple[tuple[TokenLogprob, ...], ...] = ()
    classified: tuple[tuple[float, ...], ...] = ()
