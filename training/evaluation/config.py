"""What is to be evaluated, checked and read before any network is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.documents import read_corpus
from training.errors import TrainingError
from training.evaluation.benchmarks import BENCHMARKS, read_document
from training.evaluation.perplexity import TextSubject
from training.evaluation.session import PROTOCOLS, Subject

_CORPORA = (".tar", ".tar.gz", ".tgz", ".tar.xz")


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """``on``: names of BENCHMARKS, which lie below ``data``; NAME=FILE; or plain texts.

    A plain text is a file; or a folder or an archive of .txt files, of which ``documents`` names
    those to read, as ``pretrain --held-out`` does. ``window_len`` is the number of predictions in a
    window (default: the context), and ``stride`` how far windows of the plain protocol are apart
    (default: half of that). ``limit``: the most windows of each text, or examples.
    """

    on: tuple[str, ...]
    data: Path | None = None
    documents: tuple[str, ...] = ()
    protocol: str = "both"
    window_len: int | None = None
    stride: int | None = None
    limit: int | None = None

    @property
    def protocols(self) -> tuple[str, ...]:
        """Those that ``protocol`` stands for."""
        return PROTOCOLS if self.protocol == "both" else (self.protocol,)

    def windows_within(self, context_len: int) -> tuple[int, int]:
        """``window_len`` and ``stride`` for a network. Raises TrainingError."""
        window_len = context_len if self.window_len is None else self.window_len
        stride = max(1, window_len // 2) if self.stride is None else self.stride
        problems = []
        if not 1 <= window_len <= context_len:
            problems.append(
                f"window must be from 1 to the context, {context_len}, got {window_len}"
            )
        if not 1 <= stride <= window_len:
            problems.append(f"stride must be from 1 to the window, {window_len}, got {stride}")
        if problems:
            raise TrainingError(problems)
        return window_len, stride


def read_subjects(config: EvaluationConfig) -> list[Subject]:
    """Read everything that ``config`` asks for. Raises TrainingError with every problem."""
    problems = list(_setting_problems(config))
    subjects = []
    for on in config.on:
        try:
            subjects.append(_read(on, config))
        except TrainingError as error:
            problems += error.problems
        except OSError as error:
            problems.append(f"{error.strerror or error}: {error.filename or on}")
    if problems:
        raise TrainingError(problems)
    return subjects


def _setting_problems(config: EvaluationConfig) -> Iterator[str]:
    if not config.on:
        yield f"on must name something: {', '.join(BENCHMARKS)}, or a text"
    if config.protocol not in ("both", *PROTOCOLS):
        yield f"protocol must be both, {' or '.join(PROTOCOLS)}, got {config.protocol!r}"
    for name in ("window_len", "stride", "limit"):
        value = getattr(config, name)
        if value is not None and value < 1:
            yield f"{name.removesuffix('_len')} must be at least 1, got {value}"


def _read(on: str, config: EvaluationConfig) -> Subject:
    name, _, file = on.partition("=")
    if name not in BENCHMARKS:
        return _read_plain(on, config)
    benchmark = BENCHMARKS[name]
    if file:
        if not Path(file).is_file():
            raise TrainingError([f"{on}: {file} is no file; {name} is {benchmark.expected}"])
        return benchmark.read(name, Path(file))
    places = " or ".join(benchmark.files)
    if config.data is None:
        raise TrainingError(
            [f"{name} needs --data DIR with {places}, or {name}=FILE: {benchmark.expected}"]
        )
    path = benchmark.file_in(config.data)
    if path is None:
        raise TrainingError(
            [f"{name} is not in {config.data}: expected {places}, {benchmark.expected}"]
        )
    return benchmark.read(name, path)


def _read_plain(on: str, config: EvaluationConfig) -> Subject:
    path = Path(on)
    if not path.exists():
        raise TrainingError(
            [f"on must be one of {', '.join(BENCHMARKS)}, NAME=FILE or a text, got {on!r}"]
        )
    if config.protocol == "paper":
        raise TrainingError([f"{on} is a plain text: the paper's protocol is for names"])
    if not path.is_dir() and not path.name.endswith(_CORPORA):
        return TextSubject(path.name, (read_document(path),))
    corpus = read_corpus(path, config.documents)
    return TextSubject(path.name, corpus.held_out if config.documents else corpus.training)
