"""Export: a checkpoint -> a directory that Hugging Face transformers opens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from model.config import GPTConfig
from model.gpt_tokenizer import UNKNOWN
from model.tokenizer import VOCABULARY_FILES, Tokenizer
from weights.checkpoint import Checkpoint, open_checkpoint, open_plain_checkpoint
from weights.directory import (
    dest_problems,
    named_problems,
    new_directory,
    write_bytes,
    write_object,
)
from weights.formats.hf_config import config_to_hf, unwritable
from weights.formats.hf_gpt2 import tensors_to_hf
from weights.stored import CheckpointError
from weights.vocabulary import END_OF_TEXT, fit_problems, read_tokenizer, vocabulary_files
from weights.writing import Progress, write_safetensors

_TOKENIZER = "tokenizer.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_HF_PAIR = ("vocab.json", "merges.txt")
_OPENAI_PAIRS = (("encoder.json", "vocab.bpe"), ("encoder_bpe_40000.json", "vocab_40000.bpe"))
"""OpenAI's names for the same contents: GPT-2's, and GPT's."""
_PAIRS = (*_HF_PAIR, *(name for pair in _OPENAI_PAIRS for name in pair))


def export(
    source: Path, dest: Path, progress: Callable[[int, int], None] | None = None
) -> Checkpoint:
    """Write ``source``, which can be served, to ``dest``, which must not exist, and open it there.

    ``GPT2LMHeadModel.from_pretrained``, or ``OpenAIGPTLMHeadModel.from_pretrained`` of a
    post-norm decoder, and ``AutoTokenizer.from_pretrained`` open the result.
    Tensors are the same bit for bit, and converting it again gives ``source``. ``progress`` is
    told (done_bytes, total_bytes). Raises CheckpointError listing every problem; then nothing is
    left behind.
    """
    problems = dest_problems(dest)
    checkpoint, tokenizer, source_problems = _open(source)
    problems += source_problems
    if problems or checkpoint is None:
        raise CheckpointError(problems)
    tensors = tensors_to_hf(checkpoint.config, checkpoint.tensors)
    told = Progress(progress, 2 * sum(tensor.nbytes for tensor in tensors.values()))
    with named_problems(dest), new_directory(dest) as temporary:
        write_safetensors(temporary / "model.safetensors", tensors, told)
        write_object(temporary / "config.json", _config(checkpoint.config, tensors.values()))
        if tokenizer is not None:
            _write_vocabulary(temporary, source, tokenizer, checkpoint.config)
    return open_checkpoint(dest)


def _open(source: Path) -> tuple[Checkpoint | None, Tokenizer | None, list[str]]:
    checkpoint: Checkpoint | None = None
    tokenizer: Tokenizer | None = None
    problems: list[str] = []
    try:
        checkpoint = open_plain_checkpoint(source)
    except CheckpointError as error:
        problems += error.problems
    try:
        tokenizer = read_tokenizer(source, is_optional=True)
    except CheckpointError as error:
        problems += error.problems
    if checkpoint is not None:
        problems += fit_problems(tokenizer, checkpoint.config)
        problems += unwritable(checkpoint.config)
    return checkpoint, tokenizer, problems


def _config(config: GPTConfig, tensors: Iterable[torch.Tensor]) -> dict[str, Any]:
    """config.json. A mixture of dtypes is opened in the one that holds all of them."""
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    name = str(dtype).removeprefix("torch.")
    # transformers reads ``dtype`` since version 4.56.
    return {**config_to_hf(config), "dtype": name, "torch_dtype": name}


def _write_vocabulary(dest: Path, source: Path, tokenizer: Tokenizer, config: GPTConfig) -> None:
    """The files that the tokenizer was made of, and the tokenizer_config.json they may lack."""
    files = _used_files(source)
    for name, file in files.items():
        write_bytes(dest / name, file.read_bytes())
    if _TOKENIZER_CONFIG not in files:
        write_object(dest / _TOKENIZER_CONFIG, _tokenizer_config(tokenizer, config))


def _used_files(source: Path) -> dict[str, Path]:
    """Name in transformers -> file: one vocabulary, where the directory has several."""
    files = {file.name: file for file in vocabulary_files(source)}
    extras = {name: file for name, file in files.items() if name in _EXTRAS}
    if _TOKENIZER in files:
        return {_TOKENIZER: files[_TOKENIZER], **extras}
    # In the order in which the tokenizer takes them.
    pairs = (_OPENAI_PAIRS[0], _HF_PAIR, *_OPENAI_PAIRS[1:])
    pair = next(pair for pair in pairs if files.keys() >= {*pair})
    return dict(zip(_HF_PAIR, (files[name] for name in pair), strict=True)) | extras


_EXTRAS = frozenset(VOCABULARY_FILES) - {_TOKENIZER, *_PAIRS}


def _tokenizer_config(tokenizer: Tokenizer, config: GPTConfig) -> dict[str, Any]:
    """Without it, GPT2Tokenizer adds an end of text to a vocabulary that has none.

    transformers tells the tokenizer by the class that is named here.
    """
    if tokenizer.is_of_words:
        return {
            "tokenizer_class": "OpenAIGPTTokenizer",
            "unk_token": UNKNOWN,
            "model_max_length": config.num_positions,
        }
    special = tokenizer.special_tokens
    end = next((token for token, id_ in special.items() if id_ in config.eos_token_ids[:1]), None)
    default = END_OF_TEXT if END_OF_TEXT in special else None
    return {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": False,
        "bos_token": end or default,
        "eos_token": end or default,
        "unk_token": default,
        "model_max_length": config.num_positions,
    }
