"""Launch: device work that the host has queued and not looked at yet. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from engine.request import SamplingParams, TokenLogprob
from engine.sequence import SequenceState
from engine.step import Drawn, Step


@dataclass(frozen=True, slots=True)
class SlotSetup:
    """What the device is told when a request gets its slot.

    ``num_known`` tokens are there from the start, ``prompt_len`` of them the prompt. The
    sequence ends at ``max_len`` tokens; below ``min_len`` none of ``ending_ids`` may be drawn.
    ``ends`` says which of these ids end it: all, but for ignored end-of-text ids.
    """

    slot: int
    num_known: int
    prompt_len: int
    max_len: int
    min_len: int
    params: SamplingParams
    ending_ids: tuple[int, ...]
    ends: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Launch:
    """A row for each sequence; ``needs_full`` where one asks for more than a temperature.

    ``num_logprobs``: the most that any row asks for, None where none does.
    """

    sequences: tuple[SequenceState, ...]
    needs_full: bool
    num_logprobs: int | None


@dataclass(frozen=True, slots=True)
class PrefillLaunch(Launch):
    """A chunk of prompts, the rows of ``step`` in the order of ``sequences``.

    ``setups`` come first, then the step's copies, then the rows. ``completes`` says which rows
    are their sequence's last before it draws or ends.
    """

    setups: tuple[SlotSetup, ...]
    step: Step
    completes: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class DecodeLaunch(Launch):
    """One more token for each row; a row that has ended on the device meanwhile brings none."""


@dataclass(frozen=True, slots=True)
class RowResult:
    """What a launch brought one row: no token if the row drew none or had ended before.

    ``goes_on`` is what the device thinks: whether the sequence is still open after it.
    """

    token: Drawn | None = None
    goes_on: bool = False
    scored: tuple[TokenLogprob, ...] = ()
