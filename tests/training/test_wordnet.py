"""A WordNet of a few synsets, in the form of wndb(5WN)."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.wordnet import main, wordnet_text

LICENCE = "  1 This software and database is being provided to you, the LICENSEE\n"

FILES = {
    "data.adj": (
        "00000010 00 a 01 interesting 0 003 ! 00000020 a 0101 & 00000015 a 0000 "
        "& 00000017 a 0000 | arousing  \n"
        "00000015 00 s 02 absorbing 0 half_way(p) 0 001 & 00000010 a 0000 | holding;  "
        '"an absorbing book"\n'
        "00000017 00 s 01 gripping 0 001 & 00000010 a 0000 | holding fast\n"
        "00000020 00 a 01 uninteresting 0 002 ! 00000010 a 0101 & 00000025 a 0000 | dull\n"
        "00000025 00 s 01 boring 0 001 & 00000020 a 0000 | causing weariness\n"
    ),
    "data.adv": "00000030 02 r 01 boringly 0 001 \\ 00000025 a 0101 | in a tedious manner\n",
    "data.verb": "00000040 29 v 01 bore 0 000 01 + 08 00 | cause to be bored\n",
    "data.noun": (
        "00000050 05 n 01 bore 1 001 @ 00000060 n 0000 | an animal\n"
        "00000055 20 n 01 oak 0 001 @ 00000060 n 0000 | a plant\n"
        "00000060 04 n 10 a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 000 | count in hexadecimal\n"
        "00000065 18 n 01 Burke 0 001 @i 00000060 n 0000 | a statesman\n"
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(LICENCE + text.replace(" 10 a 0", " 0a a 0"))
    return tmp_path


def test_each_synset_is_a_line(folder: Path) -> None:
    """Species and names are left out; what is alike stands together."""
    assert wordnet_text(folder).splitlines() == [
        "",
        "interesting: arousing; unlike: uninteresting",
        'absorbing, half way: holding; "an absorbing book"; like: interesting',
        "gripping: holding fast; like: interesting",
        "uninteresting: dull; like: boring; unlike: interesting",
        "boring: causing weariness; like: uninteresting",
        "boringly: in a tedious manner",
        "bore: cause to be bored",
        "a, b, c, d, e, f, g, h, i, j: count in hexadecimal",
    ]


def test_a_file_is_written(folder: Path, tmp_path: Path) -> None:
    main(str(folder), str(tmp_path / "wordnet.txt"))
    assert (tmp_path / "wordnet.txt").read_text() == wordnet_text(folder)
