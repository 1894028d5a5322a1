"""Reading a corpus in its three forms, and everything that can be wrong with one."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from training.documents import read_corpus
from training.errors import TrainingError


def problems(path: Path, *held_out: str) -> list[str]:
    with pytest.raises(TrainingError) as caught:
        read_corpus(path, held_out)
    return caught.value.problems


def test_directory_archive_and_file_give_the_same(corpus_dir: Path, tmp_path: Path) -> None:
    (corpus_dir / "README.md").write_text("not a text to train on")
    archive = tmp_path / "corpus.tar.xz"
    with tarfile.open(archive, "w:xz") as file:
        for path in sorted(corpus_dir.iterdir(), reverse=True):
            file.add(path, path.name)
    from_directory = read_corpus(corpus_dir, ())
    assert from_directory == read_corpus(archive, ())
    names = [document.name for document in from_directory.training]
    assert names == ["12_novel.txt", "36_held_out.txt", "7_tale.txt"]
    assert read_corpus(corpus_dir / "7_tale.txt", ()).training == from_directory.training[2:]


@pytest.mark.parametrize("name", ["36", "36_held_out", "36_held_out.txt"])
def test_held_out_texts_are_not_trained_on(corpus_dir: Path, name: str) -> None:
    corpus = read_corpus(corpus_dir, (name,))
    assert [document.name for document in corpus.held_out] == ["36_held_out.txt"]
    assert [document.name for document in corpus.training] == ["12_novel.txt", "7_tale.txt"]


def test_texts_are_taken_as_they_are(tmp_path: Path) -> None:
    """Bits per byte are counted over the file's own bytes: no line end may be translated."""
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\r \n")
    assert read_corpus(tmp_path, ()).training[0].text == "one\r\ntwo\r \n"


def test_the_lines_of_paragraphs_are_joined_on_request(tmp_path: Path) -> None:
    """In held-out texts as well, and the hash knows it: it is another run."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("one two\nthree four\nfive six\n")
    joined = read_corpus(tmp_path, ("b",), is_joined=True)
    texts = [document.text for document in (*joined.training, *joined.held_out)]
    assert texts == ["one two three four five six\n"] * 2
    assert joined.sha256 != read_corpus(tmp_path, ("b",)).sha256


def test_hash_sees_names_and_texts(corpus_dir: Path) -> None:
    before = read_corpus(corpus_dir, ()).sha256
    assert before == read_corpus(corpus_dir, ()).sha256
    assert before != read_corpus(corpus_dir, ("7",)).sha256
    (corpus_dir / "7_tale.txt").write_text("Another tale.")
    assert before != read_corpus(corpus_dir, ()).sha256


def test_every_problem_is_named_at_once(corpus_dir: Path) -> None:
    (corpus_dir / "empty.txt").write_text(" \n")
    (corpus_dir / "latin.txt").write_bytes(b"caf\xe9")
    assert problems(corpus_dir, "99") == [
        "empty.txt is empty",
        "latin.txt is not UTF-8 at byte 3",
        f"held-out '99' is no document of {corpus_dir}",
    ]


def test_missing_empty_and_foreign_data(tmp_path: Path) -> None:
    assert problems(tmp_path / "nowhere") == [f"there is no data at {tmp_path / 'nowhere'}"]
    assert problems(tmp_path) == [f"there is no .txt file in {tmp_path}"]
    (tmp_path / "a.pdf").touch()
    assert problems(tmp_path / "a.pdf")[0].startswith("data must be a directory, a .txt file or")


def test_a_damaged_archive(corpus_dir: Path, tmp_path: Path) -> None:
    archive = tmp_path / "corpus.tar.xz"
    with tarfile.open(archive, "w:xz") as file:
        file.add(corpus_dir, "corpus")
    archive.write_bytes(archive.read_bytes()[:200])
    assert "is not a whole archive" in problems(archive)[0]


def test_something_must_be_left_to_train_on(corpus_dir: Path) -> None:
    everything = [path.stem for path in corpus_dir.iterdir()]
    assert problems(corpus_dir, *everything) == [
        "every document is held out, none is left to train on"
    ]
