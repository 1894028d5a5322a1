"""The grammars of one engine: compiled for the vocabulary that lies beside the weights."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from model.grammar import Grammars, Matcher
from model.tokenizer import Tokenizer


class CheckpointGrammars:
    """Reads the vocabulary in a thread of its own: no step waits for it, the first grammar may.

    What is wrong with a vocabulary is told when a grammar needs it: without one, ids are served.
    """

    def __init__(self, checkpoint: Path, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        with_thread = ThreadPoolExecutor(1, thread_name_prefix="grammars")
        self._grammars = with_thread.submit(partial(_read, checkpoint, vocab_size, eos_token_ids))
        with_thread.shutdown(wait=False)

    def matcher(self, grammar: str) -> Matcher:
        """The beginning of ``grammar``. Raises GrammarError and TokenizerError."""
        return self._grammars.result().matcher(grammar)


def _read(checkpoint: Path, vocab_size: int, eos_token_ids: Sequence[int]) -> Grammars:
    return Grammars(Tokenizer.from_directory(checkpoint), vocab_size, eos_token_ids)
