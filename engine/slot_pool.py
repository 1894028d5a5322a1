"""SlotPool: which slot is free, held, or kept warm for its prefix. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

MIN_PREFIX_LEN = 16
"""Shortest prefix worth a copy, and the key under which prefixes are found."""


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    """``slot`` already holds keys and values for the first ``length`` tokens asked about."""

    slot: int
    length: int


class SlotPool:
    """The bookkeeping of slots. Owns no memory: the cache rows themselves are the runner's.

    A slot is *free* (nothing worth keeping), *held* (by one running request) or *warm* (nobody's,
    but its content may serve as a prefix). Warm slots are given away least recently used first.
    ``free + held + warm == num_slots`` always; :meth:`check_integrity` proves it.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots - 1, -1, -1))
        self._held: set[int] = set()
        self._warm: dict[int, None] = {}  # ordered: least recently used first
        self._content: list[list[int]] = [[] for _ in range(num_slots)]
        self._content_len = [0] * num_slots
        self._by_prefix: dict[tuple[int, ...], set[int]] = {}

    @property
    def num_free(self) -> int:
        """Slots with nothing in them."""
        return len(self._free)

    @property
    def num_held(self) -> int:
        """Slots of running requests."""
        return len(self._held)

    @property
    def num_warm(self) -> int:
        """Slots of nobody that keep a prefix."""
        return len(self._warm)

    @property
    def num_available(self) -> int:
        """Slots that :meth:`take` can give."""
        return len(self._free) + len(self._warm)

    def longest_prefix(self, token_ids: list[int]) -> PrefixMatch | None:
        """The slot that shares the longest prefix with ``token_ids``, if it is long enough."""
        best: PrefixMatch | None = None
        for slot in self._by_prefix.get(tuple(token_ids[:MIN_PREFIX_LEN]), ()):
            shared = common_prefix_len(self._content[slot], token_ids)
            length = min(shared, self._content_len[slot])
            if best is None or (length, -slot) > (best.length, -best.slot):
                best = PrefixMatch(slot, length)
        return best

    def take(self, prefix: PrefixMatch | None = None) -> int:
        """Hold a slot for a request that will start with ``prefix``.

        The prefix's own slot is taken over where it is warm and either nothing but that
        prefix is in it or no other is to be had; otherwise a free slot, then the warm slot
        used longest ago. Raises IndexError when none is available.
        """
        slot = self._choose(prefix)
        if slot in self._warm:
            del self._warm[slot]
        elif self._free and self._free[-1] == slot:
            self._free.pop()
        self._forget(slot)
        self._held.add(slot)
        if prefix is not None and prefix.slot in self._warm:  # used again just now
            self._warm[prefix.slot] = self._warm.pop(prefix.slot)
        return slot

    def _choose(self, prefix: PrefixMatch | None) -> int:
        if prefix is not None and prefix.slot in self._warm:
            is_whole = prefix.length == self._content_len[prefix.slot]
            if is_whole or self.num_available == 1:
                return prefix.slot
        if self._free:
            return self._free[-1]
        for slot in self._warm:
            if prefix is None or slot != prefix.slot:
                return slot
        raise IndexError("every slot is held")

    def fill(self, slot: int, token_ids: list[int], length: int) -> None:
        """Note what a held slot contains by now: the first ``length`` of ``token_ids``.

        The list may grow afterwards; what it holds already must not change.
        """
        if slot not in self._held:
            raise KeyError(f"slot {slot} is not held")
        was_known = self._is_known(slot)
        self._content[slot], self._content_len[slot] = token_ids, length
        if not was_known and self._is_known(slot):
            self._by_prefix.setdefault(self._key(slot), set()).add(slot)

    def release(self, slot: int) -> None:
        """The request is over: keep the slot warm if its content is worth it, else free it."""
        self._held.remove(slot)
        if self._is_known(slot):
            self._warm[slot] = None
        else:
            self._forget(slot)
            self._free.append(slot)

    def content_len(self, slot: int) -> int:
        """Positions of the slot that hold keys and values worth reading."""
        return self._content_len[slot]

    def _forget(self, slot: int) -> None:
        if self._is_known(slot):
            key = self._key(slot)
            self._by_prefix[key].remove(slot)
            if not self._by_prefix[key]:
                del self._by_prefix[key]
        self._content[slot], self._content_len[slot] = [], 0

    def check_integrity(self) -> None:
        """Raise AssertionError unless every slot is in exactly one state and findable."""
        states = [*self._free, *self._held, *self._warm]
        if sorted(states) != list(range(self.num_slots)):
            raise AssertionError(
                f"free {sorted(self._free)}, held {sorted(self._held)} and warm "
                f"{sorted(self._warm)} are not {self.num_slots} slots, each once"
            )
        known = {slot for slot in range(self.num_slots) if self._is_known(slot)}
        indexed = sorted(slot for slots in self._by_prefix.values() for slot in slots)
        if indexed != sorted(known) or not set(self._warm) <= known or known & set(self._free):
            raise AssertionError(f"prefixes of slots {indexed} are findable, of {known} known")

    def _is_known(self, slot: int) -> bool:
        return self._content_len[slot] >= MIN_PREFIX_LEN

    def _key(self, slot: int) -> tuple[int, ...]:
        return tuple(self._content[slot][:MIN_PREFIX_LEN])


def common_prefix_len(a: list[int], b: list[int]) -> int:
    """How many leading items are equal."""
    length = min(len(a), len(b))
    if a[:length] == b[:length]:
        return length
    return next(i for i in range(length) if a[i] != b[i])
