"""A small random GPT-2 as transformers wrote it, and the engine on the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from engine.local import LocalEngine
from engine.messages import EngineConfig
from model.tokenizer import Tokenizer
from server.commands.evaluate import EngineScorer
from tests.support.vocabularies import saved, trained
from training.evaluation.session import Session

NUM_POSITIONS = 32
END_OF_TEXT_ID = 0


@pytest.fixture(scope="session")
def theirs() -> Any:
    """Far from uniform, and what stands before matters: by more than any rounding."""
    torch.manual_seed(0)
    shape = {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": NUM_POSITIONS}
    ends = {"bos_token_id": END_OF_TEXT_ID, "eos_token_id": END_OF_TEXT_ID}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=320, **shape, **ends)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(10 if ".h." in name else 6)
    return model


@pytest.fixture(scope="session")
def checkpoint(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evaluated")
    theirs.save_pretrained(path)
    return saved(trained(["<|endoftext|>"]), path)


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return Tokenizer.from_directory(checkpoint)


@pytest.fixture(scope="session", params=["auto", "torch"])
def session(request: pytest.FixtureRequest, checkpoint: Path, tokenizer: Tokenizer) -> Session:
    """In float32, with the native kernels where there are any, and with the plain ones."""
    engine = LocalEngine(
        EngineConfig(
            str(checkpoint), device="cpu", dtype="float32", kernels=request.param, num_threads=1
        )
    )
    scorer = EngineScorer(engine)
    return Session(scorer, tokenizer, END_OF_TEXT_ID, NUM_POSITIONS, NUM_POSITIONS // 2)


def logprobs_of(theirs: Any, ids: list[int]) -> torch.Tensor:
    """What transformers says of each token but the first, (T - 1, V)."""
    with torch.no_grad():
        logits: torch.Tensor = theirs(torch.tensor([ids])).logits[0, :-1]
    return logits.log_softmax(-1)
