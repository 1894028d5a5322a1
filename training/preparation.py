"""What happens before the first step: the text is read, the vocabulary made, the run recorded."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from model.config import GPTConfig
from model.tokenizer import VOCABULARY_FILES, Tokenizer, TokenizerError
from training.batches import Batches, open_tokens, write_tokens
from training.bpe import END_OF_TEXT, MIN_VOCAB_SIZE, train_bpe
from training.config import DEFAULT_VOCAB_SIZE, PretrainConfig
from training.documents import Corpus, read_corpus
from training.errors import TrainingError
from training.held_out import HeldOut
from training.learner import Learner
from training.run_directory import RunDirectory, differences
from training.schedule import Schedule
from weights.checkpoint import Checkpoint, CheckpointError, open_plain_checkpoint

_TIMED_STEPS = 3


@dataclass(frozen=True, slots=True)
class Preparation:
    """A run that can start, or go on."""

    directory: RunDirectory
    decoder: GPTConfig
    schedule: Schedule
    batches: Batches
    held_out: HeldOut
    data_sha256: str
    start: Checkpoint | None
    """What the weights are before the first step, unless they are drawn."""


def prepare(config: PretrainConfig) -> Preparation:
    """Make ready what ``config`` asks for, or find it where an interrupted run left it.

    Raises TrainingError naming what is wrong with the data, the vocabulary or the directory.
    """
    start = _open_start(config)
    corpus = read_corpus(config.data, config.held_out, is_joined=config.join_lines)
    directory = RunDirectory(config.out)
    identity = {**config.identity(), "data_sha256": corpus.sha256}
    if start is not None:
        identity["start_weights_hash"] = start.weights_hash
    recorded = directory.recorded()
    if recorded is None:
        with directory.begin() as partial:
            num_steps = _start(config, corpus, start, partial)
            partial.write_json("run.json", {"identity": identity, "num_steps": num_steps})
    else:
        _check_same_run(config, recorded["identity"], identity)
        num_steps = recorded["num_steps"]
    return _opened(config, corpus, start, directory, num_steps)


def _open_start(config: PretrainConfig) -> Checkpoint | None:
    """The checkpoint to train on. Raises TrainingError where it is none, or too short."""
    if config.start_from is None:
        return None
    try:
        start = open_plain_checkpoint(config.start_from)
    except CheckpointError as error:
        raise TrainingError(error.problems) from error
    if config.window_len > start.config.num_positions:
        limit = f"window_len must be at most {start.config.num_positions}, the positions of"
        raise TrainingError([f"{limit} {config.start_from}, got {config.window_len}"])
    return start


def _decoder(
    config: PretrainConfig, start: Checkpoint | None, tokenizer: Tokenizer
) -> tuple[GPTConfig, int]:
    """The network to train, and the id of END_OF_TEXT."""
    end_of_text_id = tokenizer.special_tokens[END_OF_TEXT]
    if start is None:
        return config.decoder(tokenizer.vocab_size, end_of_text_id), end_of_text_id
    if tokenizer.vocab_size > start.config.vocab_size:
        found = f"{tokenizer.vocab_size} entries, its embedding has {start.config.vocab_size}"
        raise TrainingError([f"the vocabulary of {start.path} has {found}"])
    return start.config, end_of_text_id


def _start(
    config: PretrainConfig, corpus: Corpus, start: Checkpoint | None, directory: RunDirectory
) -> int:
    """Make the vocabulary and the ids; the number of steps to take."""
    _make_vocabulary(config, corpus, directory.vocabulary)
    tokenizer = _open_vocabulary(directory.vocabulary, config)
    decoder, end_of_text_id = _decoder(config, start, tokenizer)
    write_tokens(corpus.training, tokenizer, end_of_text_id, directory.tokens)
    tokens = open_tokens(directory.tokens, tokenizer.vocab_size)
    batches = Batches(tokens, config.window_len, config.batch_tokens, config.seed)
    return _num_steps(config, decoder, batches, len(tokens))


def _opened(
    config: PretrainConfig,
    corpus: Corpus,
    start: Checkpoint | None,
    directory: RunDirectory,
    num_steps: int,
) -> Preparation:
    tokenizer = _open_vocabulary(directory.vocabulary, config)
    decoder, end_of_text_id = _decoder(config, start, tokenizer)
    tokens = open_tokens(directory.tokens, tokenizer.vocab_size)
    return Preparation(
        directory=directory,
        decoder=decoder,
        schedule=_schedule(config, num_steps),
        batches=Batches(tokens, config.window_len, config.batch_tokens, config.seed),
        held_out=HeldOut(corpus.held_out, tokenizer, end_of_text_id),
        data_sha256=corpus.sha256,
        start=start,
    )


def _check_same_run(
    config: PretrainConfig, recorded: dict[str, object], wanted: dict[str, object]
) -> None:
    if not config.resume:
        raise TrainingError([f"{config.out} holds a run already, and resume is off"])
    problems = differences(recorded, wanted)
    if problems:
        raise TrainingError([f"{config.out} holds another run", *problems])


def _make_vocabulary(config: PretrainConfig, corpus: Corpus, dest: Path) -> None:
    """Train it, or take the given one over."""
    given = config.vocabulary or config.start_from
    if given is not None:
        _open_vocabulary(given, config)
        dest.mkdir()
        for name in VOCABULARY_FILES:
            if (given / name).is_file():
                shutil.copyfile(given / name, dest / name)
        return
    vocab_size = config.vocab_size or DEFAULT_VOCAB_SIZE
    if vocab_size < MIN_VOCAB_SIZE:
        raise TrainingError([f"vocab_size must be at least {MIN_VOCAB_SIZE}, got {vocab_size}"])
    train_bpe((document.text for document in corpus.training), vocab_size, dest)


def _open_vocabulary(path: Path, config: PretrainConfig) -> Tokenizer:
    """Raises TrainingError where it is missing, of another size, or lacks END_OF_TEXT."""
    try:
        tokenizer = Tokenizer.from_directory(path)
    except TokenizerError as error:
        raise TrainingError([f"vocabulary {path}: {p}" for p in error.problems]) from error
    problems = []
    wanted = config.wanted_vocab_size
    if wanted is not None and tokenizer.vocab_size != wanted:
        made = "has" if config.vocabulary else "trained on this text has only"
        problems.append(
            f"vocab_size is {wanted}, but the vocabulary {made} {tokenizer.vocab_size} entries"
        )
    if END_OF_TEXT not in tokenizer.special_tokens:
        problems.append(f"the vocabulary lacks the special token {END_OF_TEXT}")
    if problems:
        raise TrainingError(problems)
    return tokenizer


def _num_steps(
    config: PretrainConfig, decoder: GPTConfig, batches: Batches, num_tokens: int
) -> int:
    """However the length of the run was given, its steps."""
    if config.num_steps is not None:
        return config.num_steps
    if config.num_epochs is not None:
        return max(1, round(config.num_epochs * num_tokens / config.batch_tokens))
    minutes = config.max_minutes or 0.0  # PretrainConfig: exactly one of the three is given
    return max(1, int(minutes * 60 / _step_s(config, decoder, batches)))


def _step_s(config: PretrainConfig, decoder: GPTConfig, batches: Batches) -> float:
    """Seconds of a step on average, tried out on a decoder that is thrown away."""
    learner = Learner(config, decoder)
    short_s = _timed(learner, batches, config.short_window_len or config.window_len)
    long_s = _timed(learner, batches, config.window_len)
    share = config.short_share if config.short_window_len else 0.0
    return share * short_s + (1 - share) * long_s


def _timed(learner: Learner, batches: Batches, window_len: int) -> float:
    learner.step(batches.at(0, window_len), 0.0)  # the first one allocates
    start = time.perf_counter()
    for step in range(1, 1 + _TIMED_STEPS):
        learner.step(batches.at(step, window_len), 0.0)
    return (time.perf_counter() - start) / _TIMED_STEPS


def _schedule(config: PretrainConfig, num_steps: int) -> Schedule:
    return Schedule(
        num_steps=num_steps,
        warmup_steps=config.warmup_steps,
        window_len=config.window_len,
        short_window_len=config.short_window_len or config.window_len,
        short_share=config.short_share if config.short_window_len else 0.0,
    )
