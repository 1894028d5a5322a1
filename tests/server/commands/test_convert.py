"""gpt2-server convert: pickles, a vocabulary from elsewhere, and heads that nothing says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from server.cli import main
from tests.support.nano_models import min_gpt, nano_gpt, nano_values, save_min
from tests.support.trap import Trap
from tests.support.vocabularies import saved, trained


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["convert", *map(str, arguments)])


@pytest.fixture
def nano_file(tmp_path: Path) -> Path:
    torch.save(nano_values(nano_gpt(vocab_size=320), vocab_size=320), tmp_path / "ckpt.pt")
    return tmp_path / "ckpt.pt"


def test_a_file_of_nano_gpt(nano_file: Path, tmp_path: Path) -> None:
    told = run(nano_file, tmp_path / "ours")
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith(f"{tmp_path / 'ours'}: 0.0 M parameters, weights ")
    assert {file.name for file in (tmp_path / "ours").iterdir()} == {
        *("config.json", "model.safetensors", "source.json")
    }


def test_a_vocabulary_from_elsewhere(nano_file: Path, tmp_path: Path) -> None:
    vocabulary = saved(trained(["<|endoftext|>"]), tmp_path / "vocabulary")
    told = run(nano_file, tmp_path / "ours", "--vocabulary", vocabulary)
    assert told.exit_code == 0, told.output
    assert (tmp_path / "ours" / "tokenizer.json").read_bytes() == (
        vocabulary / "tokenizer.json"
    ).read_bytes()


def test_heads_that_nothing_says(tmp_path: Path) -> None:
    source = save_min(tmp_path / "run", min_gpt(), None)
    told = run(source, tmp_path / "ours")
    assert told.exit_code == 2
    assert "or --num-heads" in told.output
    told = run(source, tmp_path / "ours", "--num-heads", 2)
    assert told.exit_code == 0, told.output


def test_every_problem_is_a_line_and_nothing_runs(tmp_path: Path) -> None:
    torch.save({"model": {}, "model_args": Trap(tmp_path / "canary")}, tmp_path / "ckpt.pt")
    nowhere = tmp_path / "nowhere"
    told = run(tmp_path / "ckpt.pt", tmp_path / "ours", "--vocabulary", nowhere)
    assert told.exit_code == 2
    first, second = told.output.splitlines()
    assert first.startswith(f"Error: {nowhere} has no vocabulary")
    assert second.startswith(f"Error: {tmp_path / 'ckpt.pt'}: ckpt.pt is a pickle that names posix")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ckpt.pt"]
