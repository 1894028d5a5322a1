"""The server's own counters, read from /metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_SAMPLE = re.compile(r"^gpt2_(?P<name>\w+)\{(?P<labels>.*)\} (?P<value>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Key = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Counts:
    """Samples by name, without ``gpt2_``, and labels."""

    samples: Mapping[Key, float]

    @classmethod
    def parse(cls, text: str) -> Counts:
        """Of Prometheus' text format."""
        return cls(
            {
                (found["name"], frozenset(_LABEL.findall(found["labels"]))): float(found["value"])
                for found in _SAMPLE.finditer(text)
            }
        )

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels among theirs; 0 without any."""
        wanted = set(labels.items())
        return sum(
            value for (found, has), value in self.samples.items() if found == name and wanted <= has
        )

    def by_label(self, name: str, label: str) -> dict[str, int]:
        """Counts for each value of ``label``, those that are not zero."""
        values = {value for found, has in self.samples for key, value in has if key == label}
        counts = {value: int(self.total(name, **{label: value})) for value in sorted(values)}
        return {value: count for value, count in counts.items() if count}

    def since(self, before: Counts) -> Counts:
        """What was counted in between."""
        return Counts(
            {key: value - before.samples.get(key, 0.0) for key, value in self.samples.items()}
        )

    def within(self, name: str, bound_s: float, **labels: str) -> float:
        """The share of a histogram's observations that its buckets show to be within the bound.

        NaN where nothing was observed.
        """
        most = max((le for le, _ in self._buckets(name, labels) if le <= bound_s), default=None)
        count = self.total(f"{name}_count", **labels)
        inside = dict(self._buckets(name, labels)).get(most, 0.0) if most is not None else 0.0
        return inside / count if count else math.nan

    def largest(self, name: str, **labels: str) -> float:
        """The bound of the bucket that holds the largest observation; NaN where there is none."""
        count = self.total(f"{name}_count", **labels)
        return min(
            (le for le, n in self._buckets(name, labels) if count and n >= count), default=math.nan
        )

    def percentile(self, name: str, percent: float) -> float:
        """Of a histogram's observations, taken to lie evenly in each bucket; NaN without any."""
        wanted = self.total(f"{name}_count") * percent / 100
        before, low = 0.0, 0.0
        for bound, count in sorted(self._buckets(name, {})):
            if count >= wanted > 0:
                return low + (bound - low) * (wanted - before) / (count - before)
            before, low = count, bound
        return math.nan

    def _buckets(self, name: str, labels: Mapping[str, str]) -> Iterator[tuple[float, float]]:
        bounds = {dict(has)["le"] for found, has in self.samples if found == f"{name}_bucket"}
        for bound in bounds:
            yield float(bound), self.total(f"{name}_bucket", le=bound, **labels)


def slots_add_up(counts: Counts) -> bool:
    """Nothing holds a slot, and each slot is somewhere: free + held + warm = slots."""
    held = counts.total("slots_in_use")
    found = held + counts.total("slots_free") + counts.total("slots_warm")
    return held == 0 and found == counts.total("slots") > 0


def slots_shown(counts: Counts) -> str:
    """The slots for people."""
    names = ("slots_free", "slots_in_use", "slots_warm", "slots")
    free, held, warm, slots = (int(counts.total(name)) for name in names)
    return f"{free} free + {held} held + {warm} warm of {slots}"
