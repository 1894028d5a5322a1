"""Tokens on disk, and the batches that a step takes from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.tokenizer import Tokenizer
from training.documents import Document
from training.errors import TrainingError
from training.run_directory import replace_file

TokenArray = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


def write_tokens(
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    end_of_text_id: int,
    dest: Path,
) -> None:
    """Write the ids of all documents to ``dest``, END_OF_TEXT before each. Whole or not at all."""
    element = _element(tokenizer.vocab_size)

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            for document in documents:
                ids = [end_of_text_id, *tokenizer.encode(document.text)]
                file.write(np.array(ids, dtype=element).tobytes())

    replace_file(dest, write)


def open_tokens(path: Path, vocab_size: int) -> TokenArray:
    """The ids that ``write_tokens`` wrote, mapped and not read."""
    return np.memmap(path, dtype=_element(vocab_size), mode="r")


def _element(vocab_size: int) -> npt.DTypeLike:
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class Batch:
    """The tokens of one step, N of them: windows of ``window_len`` that follow each other.

    ``ids``, ``positions`` and ``targets``, the ids that come next, are (N), int64.
    """

    ids: Tensor
    positions: Tensor
    targets: Tensor
    window_len: int

    def parts(self, count: int) -> Iterator[Batch]:
        """``count`` batches of equal length; N is a multiple of count x window_len."""
        columns = (x.chunk(count) for x in (self.ids, self.positions, self.targets))
        for ids, positions, targets in zip(*columns, strict=True):
            yield Batch(ids, positions, targets, self.window_len)

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        ids, positions, targets = (x.to(device) for x in (self.ids, self.positions, self.targets))
        return Batch(ids, positions, targets, self.window_len)


class Batches:
    """What each step is trained on: a function of the seed and the step, so no state to save.

    The corpus is cut into stretches of ``window_len`` tokens, taken in a new random order in every
    epoch. A step with shorter windows takes an equal share of the tokens from more stretches, and
    each window keeps the positions that it has in its stretch: the embedding of every position is
    trained from the first step on, though attention does not reach that far.
    """

    def __init__(self, tokens: TokenArray, window_len: int, batch_tokens: int, seed: int) -> None:
        """Raises TrainingError where there are not enough tokens for one stretch."""
        self.num_stretches = (len(tokens) - 1) // window_len
        if not self.num_stretches:
            raise TrainingError(
                [f"the training text has {len(tokens)} tokens, one window needs {window_len + 1}"]
            )
        self._tokens = tokens
        self._window_len = window_len
        self._batch_tokens = batch_tokens
        self._seed = seed
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def at(self, step: int, window_len: int) -> Batch:
        """The batch of ``step``, counted from 0, in windows of ``window_len``."""
        # A group of steps shares its stretches: each takes another part of every one of them.
        num_parts = self._window_len // window_len
        group, turn = divmod(step, num_parts)
        num_windows = self._batch_tokens // window_len
        windows = [
            self._window(group * num_windows + k, (turn + k) % num_parts, window_len)
            for k in range(num_windows)
        ]
        ids, positions, targets = (torch.cat(column) for column in zip(*windows, strict=True))
        return Batch(ids, positions, targets, window_len)

    def _window(self, index: int, part: int, window_len: int) -> tuple[Tensor, Tensor, Tensor]:
        epoch, place = divmod(index, self.num_stretches)
        offset = part * window_len
        start = int(self._stretches(epoch)[place]) * self._window_len + offset
        ids = torch.from_numpy(self._tokens[start : start + window_len + 1].astype(np.int64))
        return ids[:-1], torch.arange(offset, offset + window_len), ids[1:]

    def _stretches(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch != self._epoch:
            generator = np.random.default_rng((self._seed, epoch))
            self._order, self._epoch = generator.permutation(self.num_stretches), epoch
        return self._order
