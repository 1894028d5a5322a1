"""WordNet 3.0 as text to train on: what words of today mean, and which go together.

    python -m training.wordnet /usr/share/wordnet wordnet.txt

The folder is that of Debian's package wordnet-base; its files are described by wndb(5WN).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PARTS = ("adj", "adv", "verb", "noun")

_ANIMALS, _PLANTS = "05", "20"
"""Files of the lexicographers that are left out: some 15,000 species and genera."""

_SIMILAR, _ANTONYM, _INSTANCE = "&", "!", "@i"
"""Relations between synsets. An instance is a person, a place or an event by its name."""


@dataclass(frozen=True, slots=True)
class Synset:
    """Words of one meaning. ``similar`` and ``opposite`` are offsets in the same file."""

    words: tuple[str, ...]
    gloss: str
    similar: tuple[str, ...]
    opposite: tuple[str, ...]

    @property
    def is_leader(self) -> bool:
        """Whether several adjectives are similar to it; they stand right behind it in the file."""
        return len(self.similar) > 1


def wordnet_text(folder: Path) -> str:
    """Every synset but species and names: ``words: gloss; like: words; unlike: words``.

    One line for each, in the order of the files. An empty line stands before an adjective that
    leads several similar ones; those that are similar to one alone name it.
    """
    return "\n".join(line for part in _PARTS for line in _lines(folder / f"data.{part}")) + "\n"


def _lines(path: Path) -> Iterator[str]:
    synsets = dict(_synsets(path))
    for synset in synsets.values():
        if synset.is_leader:
            yield ""
        yield _line(synset, synsets)


def _line(synset: Synset, synsets: dict[str, Synset]) -> str:
    similar = () if synset.is_leader else synset.similar
    related = (("like", similar), ("unlike", synset.opposite))
    parts = [f"{', '.join(synset.words)}: {synset.gloss}"]
    for name, offsets in related:
        words = [", ".join(synsets[offset].words) for offset in offsets if offset in synsets]
        parts += [f"{name}: {'; '.join(words)}"] * bool(words)
    return "; ".join(parts)


def _synsets(path: Path) -> Iterator[tuple[str, Synset]]:
    """Offsets and synsets in the order of the file."""
    for line in path.read_text().splitlines():
        if line.startswith("  "):  # the licence
            continue
        data, _, gloss = line.partition(" | ")
        offset, lexicographer, _, num_words, *fields = data.split()
        end = 2 * int(num_words, 16)
        words = tuple(_word(word) for word in fields[:end:2])
        pointers = _pointers(fields[end:])
        named = any(symbol == _INSTANCE for symbol, _ in pointers)
        if named or lexicographer in (_ANIMALS, _PLANTS):
            continue
        similar, opposite = (
            tuple(dict.fromkeys(target for symbol, target in pointers if symbol == wanted))
            for wanted in (_SIMILAR, _ANTONYM)
        )
        yield offset, Synset(words, " ".join(gloss.split()), similar, opposite)


def _word(field: str) -> str:
    """``well-off(p)`` says where it may stand; ``half_dozen`` is two words."""
    return field.partition("(")[0].replace("_", " ")


def _pointers(fields: list[str]) -> list[tuple[str, str]]:
    """Symbol and offset of each relation: a count, then symbol, offset, part of speech, words."""
    count = int(fields[0])
    return list(zip(fields[1 : 1 + 4 * count : 4], fields[2 : 2 + 4 * count : 4], strict=True))


def main(folder: str, dest: str) -> None:
    """Write the text of the WordNet in ``folder`` to ``dest``."""
    Path(dest).write_text(wordnet_text(Path(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
