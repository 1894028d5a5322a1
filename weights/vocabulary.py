"""The vocabulary that goes with a checkpoint when it is written: can it be served, does it fit?"""

from __future__ import annotations

from pathlib import Path

from model.config import GPTConfig
from model.tokenizer import VOCABULARY_FILES, Tokenizer, TokenizerError, VocabularyMissing
from weights.stored import CheckpointError

END_OF_TEXT = "<|endoftext|>"


def read_tokenizer(directory: Path, *, is_optional: bool) -> Tokenizer | None:
    """The tokenizer of the files in ``directory``; None if there are none and that is allowed.

    Raises CheckpointError listing what cannot be served.
    """
    try:
        return Tokenizer.from_directory(directory)
    except VocabularyMissing as error:
        if is_optional:
            return None
        raise CheckpointError(error.problems) from error
    except TokenizerError as error:
        raise CheckpointError(error.problems) from error


def vocabulary_files(directory: Path) -> list[Path]:
    """The vocabulary files in ``directory``."""
    return [directory / name for name in VOCABULARY_FILES if (directory / name).is_file()]


def fit_problems(tokenizer: Tokenizer | None, config: GPTConfig) -> list[str]:
    """A vocabulary may have fewer ids than the embedding has rows, but not more."""
    if tokenizer is None or tokenizer.vocab_size <= config.vocab_size:
        return []
    return [
        f"the vocabulary has ids up to {tokenizer.vocab_size - 1}, "
        f"the embedding only {config.vocab_size} rows"
    ]
