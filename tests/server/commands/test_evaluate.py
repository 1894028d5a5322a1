"""gpt2-server evaluate: what it passes on, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from server.cli import main
from server.commands.evaluate import default_dtype
from server.settings import bundled_checkpoint
from weights.convert import convert

TEXT = "It was a dark night, and the old man looked at the sea.\n" * 3


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


@pytest.fixture
def text(tmp_path: Path) -> Path:
    if not (bundled_checkpoint() / "config.json").exists():
        pytest.skip("no checkpoint is bundled")
    path = tmp_path / "night.txt"
    path.write_text(TEXT)
    return path


def test_the_bundled_checkpoint_on_a_text(text: Path) -> None:
    told = run("--on", text)
    assert told.exit_code == 0, told.output
    assert "bundled: " in told.stdout
    assert "float32" in told.stdout
    assert "GPT-2 117M" in told.stdout
    assert "night.txt  plain     bits per byte" in told.stdout
    assert f"{len(TEXT)} bytes" in told.stdout


def test_options_reach_the_measurement(text: Path) -> None:
    options = ("--window", "16", "--stride", "4", "--limit", "2", "--dtype", "bfloat16")
    told = run(bundled_checkpoint(), "--on", f"ptb={text}", "--json", "--threads", "1", *options)
    assert told.exit_code == 0, told.output
    values = json.loads(told.stdout)
    assert (values["window_len"], values["stride"], values["limit"]) == (16, 4, 2)
    assert values["dtype"] == "bfloat16"
    plain, paper = values["results"]
    assert (plain["protocol"], plain["counts"]["tokens"]) == ("plain", 20)
    assert (paper["protocol"], paper["counts"]["tokens"]) == ("paper", 32)


def test_a_quantised_checkpoint_runs_as_it_is_stored(text: Path, tmp_path: Path) -> None:
    assert default_dtype(bundled_checkpoint()) == "float32"
    assert default_dtype(tmp_path / "none") == "float32"
    convert(bundled_checkpoint(), tmp_path / "int8", quantization="int8")
    told = run(tmp_path / "int8", "--on", text, "--json")
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["dtype"] == "int8"


def test_everything_that_cannot_be_read_is_told_before_weights_are(tmp_path: Path) -> None:
    told = run(tmp_path / "no-checkpoint", "--on", "ptb", "--on", "what", "--data", tmp_path)
    assert told.exit_code == 2
    assert told.output.count("Error: ") == 2
    assert "ptb is not in" in told.output
    assert "got 'what'" in told.output


def test_what_the_engine_refuses_is_refused(text: Path, tmp_path: Path) -> None:
    told = run(tmp_path / "no-checkpoint", "--on", text)
    assert told.exit_code == 2
    assert "no-checkpoint does not exist" in told.output
    told = run("--on", text, "--dtype", "int3")
    assert told.exit_code == 2
    assert "dtype must be auto, " in told.output
    told = run("--on", text, "--window", "2000")
    assert told.exit_code == 2
    assert "window must be from 1 to the context, 1024, got 2000" in told.output


def test_a_task_takes_no_other_option_and_is_refused_in_words(text: Path, tmp_path: Path) -> None:
    told = run("--task", tmp_path / "task", "--on", text, "--window", "8", "--dtype", "int8")
    assert told.exit_code == 2
    taken = "beside --task only --on, --revision and --json are taken"
    assert told.output == f"Error: {taken}, got --window, --dtype\n"
    told = run("--task", tmp_path / "task", "--on", text)
    assert told.exit_code == 2
    assert told.output == f"Error: {tmp_path / 'task'} does not exist\n"
