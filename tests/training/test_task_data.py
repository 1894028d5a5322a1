"""Rows of TSV, CSV and JSONL files, and every way in which one can be bad."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.task_data import Example, Layout, read_examples

PLAIN = Layout((("text",),), "label")


def read(path: Path, layout: Layout = PLAIN) -> tuple[tuple[Example, ...], list[str]]:
    problems: list[str] = []
    found = read_examples(path, layout, problems)
    return found.rows, [problem.removeprefix(str(path)) for problem in problems]


def rows(path: Path, layout: Layout = PLAIN) -> list[tuple[tuple[str, ...], str]]:
    found, problems = read(path, layout)
    assert problems == []
    return [(row.texts, row.label) for row in found]


def test_tsv_with_a_header_and_without(tmp_path: Path) -> None:
    file = tmp_path / "a.tsv"
    file.write_text('label\ttext\textra\r\n0\tsays "so, yes\tx\r\n\n1\tb\t\n')
    assert rows(file) == [(('says "so, yes',), "0"), (("b",), "1")]
    file.write_text("one two\t1\nthree\t0")
    named = Layout((("text",),), "label", ("text", "label"))
    assert rows(file, named) == [(("one two",), "1"), (("three",), "0")]


def test_csv_with_quotes(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('a,b,score\n"one, ""two""\nthree",four,2.5\n', newline="")
    layout = Layout((("a",), ("b",)), "score")
    assert rows(file, layout) == [(('one, "two"\nthree', "four"), "2.5")]
    (row,), _ = read(file, layout)
    assert row.where == f"{file}:3"


def test_jsonl_with_numbers_as_labels_and_joined_columns(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"p": "A.", "q": "cause", "c": "B.", "label": 1}\n\n')
    layout = Layout((("p", "q"), ("c",)), "label")
    assert rows(file, layout) == [(("A. cause", "B."), "1")]


def test_every_bad_row_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "a.tsv"
    file.write_text("text\tlabel\ngood\t1\nshort\n\t0\nlong\t1\t2\n \t \nfine\t0\n")
    found, problems = read(file)
    assert [row.where for row in found] == [f"{file}:2", f"{file}:7"]
    assert problems == [
        ":3: has 1 fields, there are 2 columns",
        ":4: 'text' is empty",
        ":5: has 3 fields, there are 2 columns",
    ]


def test_every_bad_json_row_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(
        '{"text": "a", "label": 0}\n{\n[]\n{"text": 3, "label": true}\n{"label": "x"}\n'
        '{"text": "\\ud800", "label": "x"}\n'
    )
    found, (not_json, *problems) = read(file)
    assert len(found) == 1
    assert not_json.startswith(":2: not JSON: ")
    assert problems == [
        ":3: must be an object, not list",
        ":4: 'text' must be a text, not int",
        ":4: 'label' must be a text, not bool",
        ":5: 'text' is missing",
        ":6: 'text' has a lone surrogate, which UTF-8 cannot hold",
    ]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt", b"", ": data must be one of .tsv, .csv, .jsonl, got 'a.txt'"),
        ("a.tsv", b"text\tlabel\na\xff\t1\n", ":2: not UTF-8"),
        ("a.tsv", b"", ": there are no rows"),
        ("a.tsv", b"text\tlabel\n", ": there are no rows"),
        ("a.tsv", b"words\tlabel\na\t1\n", ": there is no column 'text', only words, label"),
        ("a.csv", b'text,label\n"a,1\n', ": line 2 is not CSV: unexpected end of data"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name) == ((), [problem])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert read(tmp_path / "a.tsv") == ((), [": No such file or directory"])
