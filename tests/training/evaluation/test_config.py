"""What is asked for, read and checked before any weights are."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from training.errors import TrainingError
from training.evaluation.config import EvaluationConfig, read_subjects
from training.evaluation.last_word import LastWordSubject
from training.evaluation.perplexity import TextSubject


def problems(config: EvaluationConfig) -> list[str]:
    with pytest.raises(TrainingError) as caught:
        read_subjects(config)
    return caught.value.problems


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "lambada").mkdir()
    line = json.dumps({"text": "the last\u2028word"}, ensure_ascii=False)  # no end of line
    (tmp_path / "lambada" / "lambada_test.jsonl").write_text(f"{line}\n\n{line}\n", "utf-8")
    (tmp_path / "wikitext2").mkdir()
    (tmp_path / "wikitext2" / "wiki.test.tokens").write_bytes(b" = A = \r\n")
    return tmp_path


def test_names_lie_below_a_folder(data: Path) -> None:
    passages, text = read_subjects(EvaluationConfig(("lambada", "wikitext2"), data))
    assert isinstance(passages, LastWordSubject)
    assert passages.passages == ("the last\u2028word",) * 2
    assert isinstance(text, TextSubject)
    assert text.documents[0].text == " = A = \r\n"
    assert text.published_as == "WikiText2 ppl"


def test_a_name_may_have_a_file_of_its_own(data: Path) -> None:
    file = data / "wikitext2" / "wiki.test.tokens"
    (text,) = read_subjects(EvaluationConfig((f"ptb={file}",)))
    assert isinstance(text, TextSubject)
    assert (text.on, text.published_as) == ("ptb", "PTB ppl")


def test_plain_texts_are_files_folders_and_archives(tmp_path: Path) -> None:
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "1_a.txt").write_text("One.\n")
    (folder / "2_b.txt").write_text("Two.\n")
    with tarfile.open(tmp_path / "books.tar", "w") as archive:
        archive.add(folder, "books")
    config = EvaluationConfig((str(folder), str(tmp_path / "books.tar")), documents=("2",))
    for subject in read_subjects(config):
        assert isinstance(subject, TextSubject)
        assert [document.text for document in subject.documents] == ["Two.\n"]
    (file,) = read_subjects(EvaluationConfig((str(folder / "1_a.txt"),)))
    assert isinstance(file, TextSubject)
    assert (file.on, file.detokenise) == ("1_a.txt", None)
    (whole,) = read_subjects(EvaluationConfig((str(folder),)))
    assert isinstance(whole, TextSubject)
    assert len(whole.documents) == 2


def test_every_problem_is_told_at_once(data: Path) -> None:
    (data / "bad.jsonl").write_text('{"text": "one"}\n{"text"\n{"text": "two words"}\n[]\n')
    (data / "latin").write_bytes(b"caf\xe9")
    (data / "empty").write_bytes(b"\n")
    on = (
        "wikitext",
        "ptb",
        "cbt-cn=nowhere",
        f"lambada={data / 'bad.jsonl'}",
        str(data / "latin"),
        str(data / "empty"),
    )
    found = problems(EvaluationConfig(on, data, protocol="paper", stride=0, limit=-1))
    assert "stride must be at least 1, got 0" in found
    assert "limit must be at least 1, got -1" in found
    names = "wikitext2, wikitext103, ptb, lambada, cbt-cn, cbt-ne, NAME=FILE or a text"
    assert f"on must be one of {names}, got 'wikitext'" in found
    assert any(p.startswith(f"ptb is not in {data}: expected ptb/ptb.test.txt, ") for p in found)
    assert any("nowhere is no file; cbt-cn is the common nouns" in p for p in found)
    bad = data / "bad.jsonl"
    assert f"{bad}:1: text must have at least 2 words, got 'one'" in found
    assert any(p.startswith(f"{bad}:2: not JSON: ") for p in found)
    assert f"{bad}:4: a line must be a JSON object, got []" in found
    assert f"{data / 'latin'} is a plain text: the paper's protocol is for names" in found
    found = problems(EvaluationConfig((str(data / "latin"), str(data / "empty"))))
    assert found == [f"{data / 'latin'} is not UTF-8 at byte 3", f"{data / 'empty'} is empty"]


def test_names_need_a_folder_and_something_must_be_asked_for() -> None:
    (problem,) = problems(EvaluationConfig(("lambada",)))
    assert problem.startswith("lambada needs --data DIR with lambada/lambada_test.jsonl, or ")
    (problem,) = problems(EvaluationConfig(()))
    assert problem.startswith("on must name something: wikitext2, ")
    assert problems(EvaluationConfig(("lambada",), protocol="ours"))[0] == (
        "protocol must be both, plain or paper, got 'ours'"
    )


def test_a_file_of_bad_lines_names_the_first_ten(data: Path) -> None:
    (data / "bad.jsonl").write_text("1\n" * 25)
    found = problems(EvaluationConfig((f"lambada={data / 'bad.jsonl'}",)))
    assert len(found) == 11
    assert found[-1].startswith("and 15 more lines of ")
    (data / "bad.jsonl").write_text("\n")
    assert problems(EvaluationConfig((f"lambada={data / 'bad.jsonl'}",)))[0].endswith(
        "has no examples"
    )


def test_windows_fit_the_context() -> None:
    assert EvaluationConfig(("x",)).windows_within(1_024) == (1_024, 512)
    assert EvaluationConfig(("x",)).windows_within(1) == (1, 1)
    assert EvaluationConfig(("x",), window_len=8, stride=8).windows_within(16) == (8, 8)
    with pytest.raises(TrainingError) as caught:
        EvaluationConfig(("x",), window_len=17, stride=18).windows_within(16)
    assert caught.value.problems == [
        "window must be from 1 to the context, 16, got 17",
        "stride must be from 1 to the window, 17, got 18",
    ]
