"""How many slots fit on a device beside weights, workspaces and graphs."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import EngineFailed

FREE_SHARE = 0.95
"""Of what is left at the end; the allocator's rounding takes some."""

GRAPH_BYTES = 16 << 20
"""What a captured graph takes beside its tensors, on the safe side."""


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes: ``free`` once the weights are there, of which ``work`` is for steps and graphs."""

    free: int
    work: int

    @property
    def for_slots(self) -> int:
        """What is left."""
        return max(int((self.free - self.work) * FREE_SHARE), 0)


def fitting_slots(
    room: Room, slot_bytes: int, context_len: int, wanted: int | None, most: int
) -> int:
    """``wanted`` slots, or as many as there is room for, up to ``most``; the dummy comes on top.

    Raises EngineFailed with the numbers where they do not fit, or not even one does.
    """
    if wanted is not None and wanted > most:
        raise EngineFailed([f"slots must be at most {most} on a GPU, got {wanted}"])
    possible = room.for_slots // slot_bytes - 1
    found = (
        f"one takes {slot_bytes:,} bytes for {context_len} positions, and of {room.free:,} free "
        f"beside the weights steps and graphs need {room.work:,}"
    )
    if possible < 1:
        rule = "not even one slot fits beside the one for padding"
        raise EngineFailed([f"{rule}: {found}; lower max_context"])
    if wanted is not None and wanted > possible:
        raise EngineFailed([f"slots must be at most {possible}, got {wanted}: {found}"])
    return wanted or min(possible, most)
