"""DeviceState: all that a step needs to know of its requests, on the device, at fixed addresses.

Indexed by slot. One slot more than the cache gives away, the last, is the dummy: padding rows and
rows that have ended read and write there. Who is in a batch is data, so no change of it
needs another graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from engine.admission import MAX_BIASES, MAX_STOP_IDS
from engine.device.launch import SlotSetup
from engine.device.staging import Words
from engine.request import SamplingParams

MAX_EOS_IDS = 32
MAX_ENDING_IDS = MAX_STOP_IDS + MAX_EOS_IDS
"""Stop tokens of a request, and the model's own end-of-text ids."""

NO_ID = -1
"""Fills tables of token ids."""


@dataclass(frozen=True, slots=True)
class DeviceState:
    """One line a slot, S + 1 of them. int32 (S + 1) where nothing else is said.

    ``length`` counts the tokens that are known, ``prompt_len`` those of the prompt; the
    sequence ends at ``max_len``, and until ``min_len`` its ending ids are banned. ``active`` is
    1 while it decodes. ``history`` (S + 1, T + 1) holds the tokens: the last drawn one needs no
    position. ``seed`` int64. Float32: ``temperature``, ``top_p``, ``min_p``, the penalties
    ``repetition``, ``presence`` and ``frequency``, and ``biases`` (S + 1, MAX_BIASES) beside
    ``bias_ids``, of which the first ``num_biases`` count. ``ending_ids`` and ``ends``
    (S + 1, MAX_ENDING_IDS). ``num_top`` likeliest tokens are asked for.
    """

    length: Tensor
    prompt_len: Tensor
    max_len: Tensor
    min_len: Tensor
    active: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    seed: Tensor
    choice_index: Tensor
    repetition: Tensor
    presence: Tensor
    frequency: Tensor
    num_biases: Tensor
    num_top: Tensor
    ending_ids: Tensor
    ends: Tensor
    bias_ids: Tensor
    biases: Tensor
    history: Tensor

    @classmethod
    def allocate(cls, num_slots: int, context_len: int, device: torch.device) -> DeviceState:
        """Nothing runs yet; the dummy slot knows one token, so that it has a last one."""
        lines = num_slots + 1

        def ints(*shape: int) -> Tensor:
            return torch.zeros((lines, *shape), dtype=torch.int32, device=device)

        def floats(*shape: int) -> Tensor:
            return torch.zeros((lines, *shape), device=device)

        state = cls(
            length=ints(),
            prompt_len=ints(),
            max_len=ints(),
            min_len=ints(),
            active=ints(),
            temperature=floats(),
            top_k=ints(),
            top_p=floats(),
            min_p=floats(),
            seed=torch.zeros(lines, dtype=torch.int64, device=device),
            choice_index=ints(),
            repetition=floats(),
            presence=floats(),
            frequency=floats(),
            num_biases=ints(),
            num_top=ints(),
            ending_ids=ints(MAX_ENDING_IDS),
            ends=ints(MAX_ENDING_IDS),
            bias_ids=ints(MAX_BIASES),
            biases=floats(MAX_BIASES),
            history=ints(context_len + 1),
        )
        for tensor, value in ((state.length, 1), (state.top_p, 1), (state.repetition, 1)):
            tensor.fill_(value)
        state.ending_ids.fill_(NO_ID)
        return state

    @property
    def dummy(self) -> int:
        """The slot that is nobody's."""
        return self.length.shape[0] - 1

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def live(self, slots: Tensor) -> Tensor:
        """(B) -> (B), int64: the dummy where a slot is not active."""
        slots = slots.long()
        return slots.masked_fill(self.active[slots] == 0, self.dummy)

    def last_ids(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """The last known token of each of ``slots`` (B) and its position, (B) each, int64."""
        positions = self.length[slots].long() - 1
        return self.history[slots, positions].long(), positions


# -- patches -------------------------------------------------------------------------------

PATCH_ROWS = 16
"""Slots set up at once; what is left over goes to the dummy."""

_INTS = ("length", "prompt_len", "max_len", "min_len", "active", "top_k", "choice_index")
_COUNTS = ("num_biases", "num_top")
_FLOATS = ("temperature", "top_p", "min_p", "repetition", "presence", "frequency")
_SEED_WORDS = 2
_SCALARS = 1 + len(_INTS) + len(_COUNTS) + len(_FLOATS) + _SEED_WORDS
PATCH_WORDS = _SCALARS + 2 * MAX_ENDING_IDS


def patch_words(setups: Iterable[SlotSetup], dummy: int) -> Words:
    """PATCH_ROWS lines of PATCH_WORDS words, flat: what :func:`apply_patch` understands."""
    idle = SlotSetup(dummy, 1, 0, 0, 0, SamplingParams(temperature=0.0), (), ())
    lines = [_line(setup) for setup in setups]
    lines += [_line(idle)] * (PATCH_ROWS - len(lines))
    return np.concatenate(lines)


def _line(setup: SlotSetup) -> Words:
    params = setup.params
    line = np.zeros(PATCH_WORDS, dtype=np.int32)
    ints = (
        setup.slot,
        *(setup.num_known, setup.prompt_len, setup.max_len, setup.min_len, 0),
        *(min(params.top_k, 2**31 - 1), params.choice_index),
        *(len(params.logit_bias), params.num_logprobs or 0),
    )
    line[: len(ints)] = ints
    end = len(ints) + len(_FLOATS)
    line[len(ints) : end] = np.array(
        [
            *(params.temperature, params.top_p, params.min_p, params.repetition_penalty),
            *(params.presence_penalty, params.frequency_penalty),
        ],
        dtype=np.float32,
    ).view(np.int32)
    line[end:_SCALARS] = np.array([params.seed], dtype=np.uint64).view(np.int32)
    count = len(setup.ending_ids)
    line[_SCALARS : _SCALARS + MAX_ENDING_IDS] = NO_ID
    line[_SCALARS : _SCALARS + count] = setup.ending_ids
    line[_SCALARS + MAX_ENDING_IDS : _SCALARS + MAX_ENDING_IDS + count] = setup.ends
    return line


def apply_patch(state: DeviceState, patch: Tensor) -> None:
    """Write the lines of ``patch`` (PATCH_ROWS, PATCH_WORDS), int32, to their slots."""
    slots = patch[:, 0].long()
    column = 1
    for name in (*_INTS, *_COUNTS):
        state.tensors[name][slots] = patch[:, column]
        column += 1
    for name in _FLOATS:
        state.tensors[name][slots] = patch[:, column].contiguous().view(torch.float32)
        column += 1
    low, high = patch[:, column].long(), patch[:, column + 1].long()
    state.seed[slots] = (low & 0xFFFFFFFF) | (high << 32)
    state.ending_ids[slots] = patch[:, _SCALARS : _SCALARS + MAX_ENDING_IDS]
    state.ends[slots] = patch[:, _SCALARS + MAX_ENDING_IDS :]


# -- the end of a step ---------------------------------------------------------------------


def advance(state: DeviceState, slots: Tensor, ids: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Append ``ids`` (B) to the sequences of ``slots`` (B), and see which of them end.

    Only where ``draws`` (B) holds; other rows are the dummy's or are left as they are. Returns
    int32 (B) each: the token or NO_ID, and 1 where the sequence goes on.
    """
    length = state.length[slots]
    known = state.history[slots, length.long()]
    ids = ids.to(torch.int32)
    state.history[slots, length.long()] = torch.where(draws, ids, known)
    length = length + draws.int()
    matches = (state.ending_ids[slots] == ids.unsqueeze(1)) & (state.ends[slots] > 0)  # (B, E)
    goes_on = (draws & ~matches.any(1) & (length < state.max_len[slots])).int()
    state.length[slots] = length
    state.active[slots] = goes_on
    return ids.masked_fill(~draws, NO_ID), goes_on
