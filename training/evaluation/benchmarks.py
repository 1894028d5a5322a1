"""The benchmarks that have a name: which files they lie in, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from training.documents import Document
from training.errors import TrainingError
from training.evaluation.choice import ChoiceSubject, question_of
from training.evaluation.detokenise import (
    Detokeniser,
    childrens_book,
    penn_treebank,
    wikitext,
)
from training.evaluation.examples import read_examples
from training.evaluation.last_word import LastWordSubject, passage_of
from training.evaluation.perplexity import TextSubject
from training.evaluation.session import Subject

Reader = Callable[[str, Path], Subject]
"""The name that results carry, and the file. Raises TrainingError and OSError."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """``files`` are the places below a data folder, the first that is there is taken."""

    files: tuple[str, ...]
    expected: str
    read: Reader

    def file_in(self, data: Path) -> Path | None:
        """Where it lies, or None."""
        return next((data / name for name in self.files if (data / name).is_file()), None)


def read_text(on: str, path: Path, detokenise: Detokeniser | None, published: str) -> Subject:
    """A corpus as one text."""
    return TextSubject(on, (read_document(path),), detokenise, published)


def read_last_words(on: str, path: Path) -> Subject:
    """OpenAI's form of LAMBADA."""
    return LastWordSubject(on, read_examples(path, passage_of))


def read_choices(on: str, path: Path, published: str | None) -> Subject:
    """The form of choice.question_of."""
    questions = read_examples(path, question_of)
    return ChoiceSubject(on, questions, childrens_book, published)


def read_document(path: Path) -> Document:
    """A text that has something in it, line ends as they lie."""
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise TrainingError([f"{path} is not UTF-8 at byte {error.start}"]) from error
    if not text.strip():
        raise TrainingError([f"{path} is empty"])
    return Document(path.name, text)


_QUESTIONS = "one JSON object a line: context, question with XXXXX, candidates, answer"

BENCHMARKS: Mapping[str, Benchmark] = {
    "wikitext2": Benchmark(
        ("wikitext2/wiki.test.raw", "wikitext2/wiki.test.tokens"),
        "the test split of WikiText-2, raw or with <unk>",
        partial(read_text, detokenise=wikitext, published="WikiText2 ppl"),
    ),
    "wikitext103": Benchmark(
        ("wikitext103/wiki.test.raw", "wikitext103/wiki.test.tokens"),
        "the test split of WikiText-103, raw or with <unk>",
        partial(read_text, detokenise=wikitext, published="WikiText103 ppl"),
    ),
    "ptb": Benchmark(
        ("ptb/ptb.test.txt",),
        "the test split of the Penn Treebank as Mikolov prepared it",
        partial(read_text, detokenise=penn_treebank, published="PTB ppl"),
    ),
    "lambada": Benchmark(
        ("lambada/lambada_test.jsonl",),
        'OpenAI\'s form of LAMBADA: {"text": ...} a line',
        read_last_words,
    ),
    "cbt-cn": Benchmark(
        ("cbt/cn.jsonl",),
        f"the common nouns of the Children's Book Test, {_QUESTIONS}",
        partial(read_choices, published="CBT-CN acc"),
    ),
    "cbt-ne": Benchmark(
        ("cbt/ne.jsonl",),
        f"the named entities of the Children's Book Test, {_QUESTIONS}",
        partial(read_choices, published="CBT-NE acc"),
    ),
}
