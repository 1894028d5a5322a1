"""A byte-level BPE in GPT-2's form (GPT-2 paper, section 2.2), trained on the corpus itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

END_OF_TEXT = "<|endoftext|>"
"""What stands between documents and ends a completion."""

MIN_VOCAB_SIZE = 257
"""256 bytes and END_OF_TEXT."""


def train_bpe(texts: Iterable[str], vocab_size: int, dest: Path) -> None:
    """Write ``dest``/tokenizer.json with ``vocab_size`` entries.

    Ids are in the order of merging, as in GPT-2: 256 bytes, the merges, END_OF_TEXT as the last.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=sorted(ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([END_OF_TEXT])
    dest.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(dest / "tokenizer.json"))
