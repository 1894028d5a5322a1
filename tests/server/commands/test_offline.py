"""convert, generate and pretrain: what they pass on, and how they refuse."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from server.cli import COMMANDS, main
from server.commands.pretrain import command as pretrain_command
from server.settings import bundled_checkpoint
from tests.support.gpt import random_gpt, write_openai
from tests.support.vocabularies import words
from weights.convert import convert


def test_every_command_has_help() -> None:
    for name in COMMANDS:
        told = CliRunner().invoke(main, [name, "--help"])
        assert told.exit_code == 0, told.output
        assert "Usage" in told.output
    assert all(name in CliRunner().invoke(main, ["--help"]).output for name in COMMANDS)


def test_an_unknown_command_is_refused() -> None:
    assert CliRunner().invoke(main, ["server"]).exit_code == 2


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_convert_names_the_problems_and_writes_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    told = CliRunner().invoke(main, ["convert", str(tmp_path / name), str(tmp_path / "dest")])
    assert told.exit_code == 2
    assert told.output.startswith("Error: ")
    assert not (tmp_path / "dest").exists()


def test_convert_says_what_it_wrote(tmp_path: Path) -> None:
    if not (bundled_checkpoint() / "config.json").exists():
        pytest.skip("no checkpoint is bundled")
    dest = tmp_path / "dest"
    told = CliRunner().invoke(main, ["convert", str(bundled_checkpoint()), str(dest)])
    assert told.exit_code == 0, told.output
    assert f"{dest}: " in told.output
    assert (dest / "model.safetensors").exists()


def test_generate_shows_a_prompt_of_words_as_the_model_reads_it(tmp_path: Path) -> None:
    """Of the first GPT, whose answers are lower-cased and begin without a space."""
    num_words = words(tmp_path / "model").get_vocab_size()
    write_openai(random_gpt(vocab_size=num_words), tmp_path / "model")
    checkpoint = convert(tmp_path / "model", tmp_path / "ours", num_heads=2).path
    arguments = ["generate", "--checkpoint", str(checkpoint), "--max-tokens", "3"]
    told = CliRunner().invoke(main, [*arguments, "The CAT,  naïve"])
    assert told.exit_code == 0, told.output
    assert told.output.startswith("the cat , naive ")
    refused = CliRunner().invoke(main, [*arguments, " "])
    assert refused.exit_code == 2
    assert "prompt must have at least 1 token" in refused.output


def test_generate_continues_each_prompt_n_times_and_repeatably() -> None:
    if not (bundled_checkpoint() / "config.json").exists():
        pytest.skip("no checkpoint is bundled")
    arguments = ["generate", "--max-tokens", "3", "--seed", "1", "-n", "2"]
    first = CliRunner().invoke(main, [*arguments, "One day", "The"])
    again = CliRunner().invoke(main, arguments, input="One day\nThe\n")
    assert first.exit_code == 0, first.output
    assert first.output == again.output
    assert first.output.count("One day") == 2


def test_generate_refuses_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    told = CliRunner().invoke(main, ["generate", "x", "--checkpoint", str(tmp_path)])
    assert told.exit_code == 2
    assert told.output.startswith("Error: ")
    told = CliRunner().invoke(main, ["generate", "x", "--checkpoint", str(tmp_path / "none")])
    assert told.output == f"Error: {tmp_path / 'none'} does not exist\n"


def test_pretrain_has_an_option_for_every_field() -> None:
    from dataclasses import fields

    from training.pretrain import PretrainConfig

    names = {parameter.name for parameter in pretrain_command.params}
    assert names == {field.name for field in fields(PretrainConfig)}


def test_pretrain_lists_what_is_impossible(tmp_path: Path) -> None:
    arguments = ["pretrain", str(tmp_path), str(tmp_path / "out"), "--dtype", "int3"]
    told = CliRunner().invoke(main, arguments)
    assert told.exit_code == 2
    assert told.output.count("Error: ") == 2


def test_pretrain_without_its_extra_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "training"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # as if it were not installed
    told = CliRunner().invoke(main, ["pretrain", str(tmp_path), str(tmp_path / "run")])
    assert told.exit_code == 2
    assert told.output == (
        "Error: pretrain needs tokenizers, which the extra training brings: "
        "pip install 'gpt2-server[training]'\n"
    )
